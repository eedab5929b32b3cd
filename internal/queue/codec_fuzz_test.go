package queue

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDecodeOutcome reads what may be stored under the subject of an outcome: by
// us, or by whoever may publish there. What is taken says the same once more.
func FuzzDecodeOutcome(f *testing.F) {
	own, err := json.Marshal(typicalOutcome())
	require.NoError(f, err)
	for _, seed := range []string{
		string(own), string(own) + "{}", `{"version":1}`, `{"version":2,"digests":7}`, `null`, `{"version":1,"digests":[{"key":"a","key":"b"}]}`,
		`{"version":1,"verdict":"dead","class":"timeout","error":"\ud800 \u0000"}`, `{"version":1,"seq":1e400}`, `{"version":1,"Digests":[]}`,
		`{"version":1,"digests":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzDecode[Outcome](t, data)
		fuzzDecode[DeadLetter](t, data)
		fuzzDecode[Batch](t, data)
		fuzzDecode[Cancellation](t, data)
		fuzzDecode[Presence](t, data)
	})
}

// fuzzDecode decodes bytes, and what it made of them.
func fuzzDecode[T any](t *testing.T, data []byte) {
	t.Helper()
	var once, twice T
	if err := decode(data, &once); err != nil {
		require.LessOrEqual(t, len(err.Error()), 8*maxShown+len(data), "an error repeats no more than it was given")
		return
	}
	again, err := json.Marshal(once)
	require.NoError(t, err)
	require.NoError(t, decode(again, &twice), "%s", again)
	third, err := json.Marshal(twice)
	require.NoError(t, err)
	require.JSONEq(t, string(again), string(third))
}
