package policy_test

import (
	"os"
	"path/filepath"
	"testing"

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

func TestAccepted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"default":` + accept + `}`,
		`{"default":` + accept + `,"transports":{}}`,
		`{"default":` + accept + `,"transports":{"docker":{"":` + accept + `,"r.example":` + accept + `},"docker-daemon":{"":` + accept + `}}}`,
		`{"default":[{"type":"insecureAcceptAnything"},{"type":"insecureAcceptAnything"}]}` + "\n",
	} {
		require.NoError(t, policy.Check(writePolicy(t, text)), text)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, scope, requirement string }{
		{`{"default":[{"type":"reject"}]}`, "default", "reject"},
		{`{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`, "default", "reject"},
		{`{"default":` + accept + `,"transports":{"docker":{"r.example":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}}}`, "transports.docker.r.example", "signedBy"},
		{`{"default":` + accept + `,"transports":{"docker":{"":` + accept + `,"r.example/a":[{"type":"sigstoreSigned","keyPath":"/k"}]}}}`, "transports.docker.r.example/a", "sigstoreSigned"},
		{`{"default":` + accept + `,"transports":{"docker":{"b":[{"type":"reject"}],"a":[{"type":"reject"}]}}}`, "transports.docker.a", "reject"},
		{`{"default":[{"type":"of the future"}]}`, "default", "of the future"},
	} {
		file := writePolicy(t, test.text)
		err := policy.Check(file)
		var unsupported *policy.UnsupportedError
		require.ErrorAs(t, err, &unsupported, test.text)
		require.Equal(t, policy.UnsupportedError{File: file, Scope: test.scope, Requirement: test.requirement}, *unsupported)
		require.ErrorContains(t, err, "--insecure-policy", "what can be done about it")
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
		err := policy.Check(file)
		require.ErrorContains(t, err, file, name)
		require.NotErrorAs(t, err, new(*policy.UnsupportedError), name)
	}
	require.ErrorIs(t, policy.Check(filepath.Join(t.TempDir(), "none.json")), os.ErrNotExist)
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
