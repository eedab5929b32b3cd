package policy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/policy"
)

func writePolicy(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

const accept = `[{"type":"insecureAcceptAnything"}]`

func load(t *testing.T, text string) (*policy.Policy, error) {
	t.Helper()
	return policy.Load(writePolicy(t, text), policy.Access{})
}

const manifest = digest.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

func TestAccepted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"default":` + accept + `}`,
		`{"default":` + accept + `,"transports":{}}`,
		`{"default":` + accept + `,"transports":{"docker":{"":` + accept + `,"r.example":` + accept + `},"docker-daemon":{"":` + accept + `}}}`,
		`{"default":[{"type":"insecureAcceptAnything"},{"type":"insecureAcceptAnything"}]}` + "\n",
	} {
		p, err := load(t, text)
		require.NoError(t, err, text)
		require.True(t, p.AcceptsAll(), text)
		require.NoError(t, p.Allow(t.Context(), "r.example/a:1", manifest))
	}
}

// Who looks at an image need not look at a registry, where the file says all.
func TestScopes(t *testing.T) {
	t.Parallel()
	const reject = `[{"type":"reject"}]`
	p, err := load(t, `{"default":`+reject+`,"transports":{"docker":{
		"r.example":`+accept+`, "r.example/no":`+reject+`, "r.example/no/but":`+accept+`,
		"r.example/a:bad":`+reject+`, "tls.example":`+reject+`, "tls.example:443":`+accept+`, "own.example:443":`+accept+`, "*.wild.example":`+accept+`, "docker.io/library":`+accept+`,
		"port.example:5000":`+accept+`, "both.example":[{"type":"insecureAcceptAnything"},{"type":"reject"}]
	},"docker-daemon":{"":`+accept+`}}}`)
	require.NoError(t, err)
	require.False(t, p.AcceptsAll())
	for image, scope := range map[string]string{
		"r.example/a:1": "", "r.example/no:1": "transports.docker.r.example/no", "r.example/no/x:1": "transports.docker.r.example/no",
		"r.example/no/but:1": "", "r.example/a:bad": "transports.docker.r.example/a:bad", "r.example/a@" + manifest.String(): "",
		"a.wild.example/x:1": "", "wild.example/x:1": "default", "alpine:3": "", "port.example:5000/x:1": "", "port.example/x:1": "default",
		"tls.example:443/x:1": "transports.docker.tls.example", "own.example:443/x:1": "",
		"both.example/x:1": "transports.docker.both.example", "elsewhere.example/x:1": "default",
	} {
		err := p.Allow(t.Context(), image, manifest)
		if scope == "" {
			require.NoError(t, err, image)
			continue
		}
		var rejected *policy.RejectedError
		require.ErrorAs(t, err, &rejected, image)
		require.ErrorContains(t, err, "it is for "+scope+", and rejects", image)
	}
}

func TestKeysThatAreNotThere(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"default":[{"type":"sigstoreSigned","keyPath":"/nowhere/k.pub"}]}`,
		`{"default":` + accept + `,"transports":{"docker":{"r.example":[{"type":"sigstoreSigned","keyPaths":["/nowhere/k.pub"]}]}}}`,
		`{"default":[{"type":"sigstoreSigned","fulcio":{"caPath":"/nowhere/k.pub"}}]}`,
	} {
		_, err := load(t, text)
		require.ErrorIs(t, err, os.ErrNotExist, text)
		require.ErrorContains(t, err, "/nowhere/k.pub")
		require.ErrorContains(t, err, "sigstoreSigned for ")
	}
}

// What those who evaluate policies would not read must not pass for one that
// accepts everything.
func TestNoPolicy(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":                    ``,
		"cut off":                  `{"default":[`,
		"null":                     `null`,
		"a list":                   accept,
		"nothing in it":            `{}`,
		"no default":               `{"transports":{"docker":{"":` + accept + `}}}`,
		"empty default":            `{"default":[]}`,
		"empty scope":              `{"default":` + accept + `,"transports":{"docker":{"r.example":[]}}}`,
		"null scope":               `{"default":` + accept + `,"transports":{"docker":{"r.example":null}}}`,
		"requirement without type": `{"default":[{"keyPath":"/k"}]}`,
		"type that is no text":     `{"default":[{"type":1}]}`,
		"more beside the type":     `{"default":[{"type":"insecureAcceptAnything","Type":"reject"}]}`,
		"default twice":            `{"default":[{"type":"reject"}],"default":` + accept + `}`,
		"type twice":               `{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}`,
		"scope twice":              `{"default":` + accept + `,"transports":{"docker":{"a":[{"type":"reject"}],"a":` + accept + `}}}`,
		"transport twice":          `{"default":` + accept + `,"transports":{"docker":{"a":[{"type":"reject"}]},"docker":{}}}`,
		"capital letters":          `{"default":[{"type":"reject"}],"Default":` + accept + `}`,
		"unknown name":             `{"default":` + accept + `,"transport":{}}`,
		"something behind it":      `{"default":` + accept + `}{}`,
	} {
		file := writePolicy(t, text)
		_, err := policy.Load(file, policy.Access{})
		require.ErrorContains(t, err, file, name)
		require.NotErrorAs(t, err, new(*policy.UnsupportedError), name)
	}
	_, err := policy.Load(filepath.Join(t.TempDir(), "none.json"), policy.Access{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestFind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1.json"), filepath.Join(dir, "2.json")
	find := func() string {
		t.Helper()
		file, err := policy.Find([]string{first, second})
		require.NoError(t, err)
		return file
	}
	require.Empty(t, find())
	require.NoError(t, os.WriteFile(second, nil, 0o600))
	require.Equal(t, second, find())
	require.NoError(t, os.WriteFile(first, nil, 0o600))
	require.Equal(t, first, find())

	_, err := policy.Find([]string{filepath.Join(first, "policy.json"), second})
	require.Error(t, err, "what cannot be looked at is not taken for absent")
}

func TestDefaultFiles(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"/home/u/.config/containers/policy.json", "/etc/containers/policy.json"}, policy.DefaultFiles("/home/u"))
	require.Equal(t, []string{"/etc/containers/policy.json"}, policy.DefaultFiles(""))
}
