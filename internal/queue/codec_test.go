package queue

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const genuine = `{"version":1,"id":"abc","gen":0,"batch":"b","seq":3,"line":"app:1","reference":"r.example/app:1",` +
	`"timeout":0.29,"submitted_at":"2026-01-02T03:04:05Z","platforms":["linux/amd64"]}`

func TestDecodeRequest(t *testing.T) {
	t.Parallel()
	r, err := decodeRequest([]byte(genuine), "b")
	require.NoError(t, err)
	require.Equal(t, Request{
		Version: 1, ID: "abc", Batch: "b", Seq: 3, Line: "app:1", Reference: "r.example/app:1",
		Timeout: Seconds(290 * time.Millisecond), SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Platforms: []string{"linux/amd64"},
	}, r)
}

func TestDecodeRequestIsStrict(t *testing.T) {
	t.Parallel()
	change := func(from, to string) string {
		require.Contains(t, genuine, from)
		return strings.Replace(genuine, from, to, 1)
	}
	for name, c := range map[string]struct{ data, want string }{
		"nothing":               {"", "unexpected end"},
		"null":                  {"null", "no version"},
		"not an object":         {`[1]`, "no version"},
		"no version":            {`{}`, "no version"},
		"version as text":       {change(`"version":1`, `"version":"1"`), "no version"},
		"unknown field":         {change(`"seq"`, `"sequel":1,"seq"`), `unknown field "sequel"`},
		"field in another case": {change(`"seq"`, `"Seq"`), `unknown field "Seq"`},
		"folded letter":         {change(`"seq"`, `"ſeq"`), `unknown field`},
		"field twice":           {change(`"seq"`, `"seq":1,"seq"`), `"seq" stands twice`},
		"field escaped":         {change(`"seq"`, `"\u0073eq"`), `unknown field`},
		"empty field":           {change(`"seq"`, `"":1,"seq"`), `unknown field ""`},
		"nested deep":           {change(`"seq"`, `"a":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`,"seq"`), "nested deeper"},
		"many fields":           {`{"version":1` + manyFields() + `}`, "more than 64 fields"},
		"trailing data":         {genuine + `{}`, "after top-level value"},
		"wrong batch":           {change(`"batch":"b"`, `"batch":"c"`), "under the subject of batch"},
		"id that is no name":    {change(`"abc"`, `"a.c"`), "is not a name"},
		"negative generation":   {change(`"gen":0`, `"gen":-1`), "negative"},
		"negative seq":          {change(`"seq":3`, `"seq":-3`), "negative"},
		"negative timeout":      {change(`0.29`, `-1`), "out of range"},
		"endless timeout":       {change(`0.29`, `1e300`), "out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := decodeRequest([]byte(c.data), "b")
			require.ErrorContains(t, err, c.want)
			require.Zero(t, r)
		})
	}
	_, err := decodeRequest([]byte(strings.ReplaceAll(genuine, `"b"`, `"B"`)), "B")
	require.ErrorContains(t, err, "is not a name")
}

// manyFields are more fields than any message has.
func manyFields() string {
	var all strings.Builder
	for n := range 100 {
		all.WriteString(`,"` + strings.Repeat("a", n+1) + `":1`)
	}
	return all.String()
}

// FuzzInspect holds the inspection of keys to what encoding/json makes of them.
func FuzzInspect(f *testing.F) {
	for _, seed := range []string{genuine, `{"a":{"b":[{"c":"}\""},"\\"]},"version" : 7 }`, `[{"a":1},{"a":1}]`, `"x"`, `{"a":"b:c,d"}`, `{"a":{},"b":[],"a":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			return
		}
		_, err := inspect(data)
		if err != nil {
			return
		}
		var top map[string]json.RawMessage
		if json.Unmarshal(data, &top) != nil {
			return
		}
		for key := range top {
			require.Regexp(t, `^[a-z_]*$`, key)
		}
		compact, err := json.Marshal(top)
		require.NoError(t, err)
		again, err := inspect(compact)
		require.NoError(t, err)
		first, _ := inspect(data)
		require.Equal(t, first, again)
	})
}

func BenchmarkDecodeOutcome(b *testing.B) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	signature := SignedDigest{Digest: digest, Platform: "linux/amd64", Key: digest, Format: "tag", Attachment: digest}
	data, err := json.Marshal(Outcome{
		Version: 1, ID: strings.Repeat("a", 26), Batch: "b", Seq: 7, Line: "registry.example.org/team/app:v1", Reference: "registry.example.org/team/app:v1",
		Verdict: Signed, Digest: digest, Digests: []SignedDigest{signature, signature, signature}, Worker: "w", Attempts: 1,
	})
	require.NoError(b, err)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		var o Outcome
		if err := decode(data, &o); err != nil {
			b.Fatal(err)
		}
	}
}

func TestALaterVersionIsToldFromNonsense(t *testing.T) {
	t.Parallel()
	var later *VersionError
	_, err := decodeRequest([]byte(`{"version":2,"wonder":{"a":1}}`), "b")
	require.ErrorAs(t, err, &later)
	require.Equal(t, 2, later.Version)
	_, err = decodeRequest([]byte(`{"version":-2}`), "b")
	require.NotErrorAs(t, err, &later)
}

func TestNestedFieldsAreStrictToo(t *testing.T) {
	t.Parallel()
	var o Outcome
	require.NoError(t, decode([]byte(`{"version":1,"digests":[{"key":"a"},{"key":"b"}]}`), &o))
	require.ErrorContains(t, decode([]byte(`{"version":1,"digests":[{"key":"a","key":"b"}]}`), &o), "twice")
	require.ErrorContains(t, decode([]byte(`{"version":1,"digests":[{"kind":"a"}]}`), &o), "unknown field")
}

func TestIDsFollowFromWhatIsAsked(t *testing.T) {
	t.Parallel()
	base := Request{Batch: "b", Reference: "r.example/app:1", Platforms: []string{"linux/amd64"}}
	id := base.Sealed().ID
	require.Len(t, id, 26)
	require.True(t, ValidName(id))

	same := base
	same.Seq, same.Gen, same.Line, same.Timeout, same.SubmittedAt = 9, 2, "app:1", 5, time.Now()
	require.Equal(t, id, same.Sealed().ID)
	empty := base
	empty.Keys = []string{}
	require.Equal(t, id, empty.Sealed().ID)

	seen := map[string]bool{id: true}
	for _, change := range []func(*Request){
		func(r *Request) { r.Batch = "c" },
		func(r *Request) { r.Reference = "r.example/app:2" },
		func(r *Request) { r.Digest = "sha256:00" },
		func(r *Request) { r.Platforms = []string{"linux/arm64"} },
		func(r *Request) { r.Keys = []string{"linux/amd64"} },
		func(r *Request) { r.Identity = "x" },
		func(r *Request) { r.Reference, r.Line = "", "bad one" },
		func(r *Request) { r.Reference, r.Line = "", "bad two" },
		func(r *Request) { r.Reference, r.Line = "", "bad \xff" },
		func(r *Request) { r.Reference, r.Line = "", "bad \xfe" },
		func(r *Request) { r.Reference, r.Line = "", "bad \ufffd" },
		func(r *Request) { r.Platforms = []string{"linux", "amd64"} },
		func(r *Request) { r.Platforms = []string{"linuxamd64"} },
		func(r *Request) { r.Platforms, r.Keys = []string{"linux"}, []string{"amd64"} },
		func(r *Request) { r.Reference, r.Digest = "r.example/app", ":1" },
	} {
		r := base
		change(&r)
		require.False(t, seen[r.Sealed().ID])
		seen[r.Sealed().ID] = true
	}
}

func TestBatchIDsAreNames(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	require.Regexp(t, `^20260102-020405-[a-z2-7]{6}$`, NewBatchID(at))
	require.True(t, ValidName(NewBatchID(at)))
	require.NotEqual(t, NewBatchID(at), NewBatchID(at))
}

func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{
		genuine, genuine + "x", `{"version":1}`, `{"version":2}`, `null`, `[[]]`, `{"version":1,"id":"a","batch":"b","timeout":1e-7}`,
		`{"version":1,"id":"a","batch":"b","line":"\ud800\u0000<","platforms":[],"keys":null,"submitted_at":"2026-01-02T03:04:05.123456789+01:30"}`,
		`{"version":1,"id":"a","batch":"b","timeout":31535999.999999}`, `{"version":1,"Version":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRequest(data, "b")
		if err != nil {
			require.Zero(t, r)
			return
		}
		again, err := json.Marshal(r)
		require.NoError(t, err)
		twice, err := decodeRequest(again, "b")
		require.NoError(t, err)
		require.True(t, r.SubmittedAt.Equal(twice.SubmittedAt))
		r.SubmittedAt = twice.SubmittedAt
		if len(r.Platforms) == 0 {
			r.Platforms = nil
		}
		if len(r.Keys) == 0 {
			r.Keys = nil
		}
		require.Equal(t, r, twice)
		require.Equal(t, r.Sealed().ID, twice.Sealed().ID)
	})
}
