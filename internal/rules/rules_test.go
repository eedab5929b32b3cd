package rules_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/rules"
)

const sum = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern string
		in, out []string
	}{
		{"**", []string{"alpine", "registry.example.org/a/b/c:v1", "localhost:5000/x" + sum}, nil},
		{"registry.example.org/**", []string{
			"registry.example.org/app", "registry.example.org/team/app:v1", "registry.example.org/app" + sum,
			"registry.example.org:443/app", "Registry.Example.org/app",
		}, []string{"registry.example.org:5000/app", "evil.registry.example.org/app", "registry.example.orgx/app"}},
		{"registry.example.org/*", []string{"registry.example.org/app:v1"}, []string{"registry.example.org/team/app"}},
		{"registry.example.org/team/**", []string{
			"registry.example.org/team/app", "registry.example.org/team/sub/app",
		}, []string{"registry.example.org/teams/app", "registry.example.org/other/app"}},
		{"docker.io/library/*", []string{"alpine", "alpine:3", "docker.io/alpine", "index.docker.io/library/alpine"}, []string{"docker.io/team/alpine"}},
		{"*.example.org/app", []string{"a.example.org/app", "b.example.org/app:v1"}, []string{"example.org/app", "a.example.org/app/x"}},
		{"localhost:5000/**", []string{"localhost:5000/a/b"}, []string{"localhost:5001/a", "localhost/a"}},
		{"localhost:5000/app:v*", []string{"localhost:5000/app:v1", "localhost:5000/app:v1" + sum}, []string{
			"localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app" + sum,
		}},
		{"**:latest", []string{"alpine", "localhost:5000/app", "localhost:5000/app:latest"}, []string{"alpine:3", "alpine" + sum}},
		{"quay.io/team/app@", []string{"quay.io/team/app" + sum}, []string{"quay.io/team/app", "quay.io/team/app:v1" + sum}},
		{"quay.io/{a,b}/**", []string{"quay.io/a/x", "quay.io/b/y/z"}, []string{"quay.io/c/x"}},
		{"[::1]:443/**", []string{"[::1]/app:v1", "[::1]:443/app:v1"}, []string{"[::1]:5000/app"}},
		{"[::1]:5000/**", []string{"[::1]:5000/app:v1"}, []string{"localhost:5000/app"}},
		{"Quay.IO:443/**", []string{"quay.io/app", "QUAY.io:443/app"}, nil},
		{"**/app", []string{"quay.io/app", "quay.io/a/b/app"}, []string{"quay.io/apps"}},
	} {
		list, err := rules.New([]rules.Rule{{Match: []string{test.pattern}}})
		require.NoError(t, err, test.pattern)
		for _, reference := range test.in {
			_, ok, err := list.Find(reference)
			require.NoError(t, err)
			require.True(t, ok, "%s is for %s", test.pattern, reference)
		}
		for _, reference := range test.out {
			_, ok, err := list.Find(reference)
			require.NoError(t, err)
			require.False(t, ok, "%s is not for %s", test.pattern, reference)
		}
	}
}

func TestTheFirstRuleThatMatchesCounts(t *testing.T) {
	t.Parallel()
	list, err := rules.New([]rules.Rule{
		{Match: []string{"quay.io/team/secret", "quay.io/team/private/**"}, Deny: true},
		{Match: []string{"quay.io/team/**"}, Keys: []string{"a.key"}},
		{Match: []string{"quay.io/**"}},
	})
	require.NoError(t, err)
	require.Equal(t, 3, list.Len())
	for reference, want := range map[string]int{
		"quay.io/team/secret:v1": 0, "quay.io/team/private/x": 0, "quay.io/team/app": 1, "quay.io/other": 2,
	} {
		n, ok, err := list.Find(reference)
		require.NoError(t, err)
		require.True(t, ok, reference)
		require.Equal(t, want, n, reference)
	}
	require.True(t, list.Rule(0).Deny)
	require.Equal(t, []string{"a.key"}, list.Rule(1).Keys)

	_, ok, err := list.Find("docker.io/library/alpine")
	require.NoError(t, err)
	require.False(t, ok)
	_, _, err = list.Find("no reference")
	require.Error(t, err)
	_, ok, err = new(rules.List).Find("alpine")
	require.NoError(t, err)
	require.False(t, ok, "no rules, no rule")
}

func TestBadRules(t *testing.T) {
	t.Parallel()
	for pattern, reason := range map[string]string{
		"":                             "a host and a repository are needed",
		"alpine":                       "write alpine/** for a registry, or docker.io/library/alpine",
		"team/app":                     "write docker.io/team/app for Docker Hub",
		"localhost:5000":               "is it a host with a port? write localhost:5000/** for all that is there",
		"quay.io/app:":                 "is no pattern for a tag",
		"quay.io/app" + sum:            "a rule is for names and tags",
		"quay.io//app":                 "a part of the name is empty",
		"quay.io/[app":                 "see to its brackets and braces",
		"quay.io/app:{a,":              "see to its brackets and braces",
		"/app":                         "a part of the name is empty",
		"quay.io/":                     "a part of the name is empty",
		"aaaaa/":                       "a part of the name is empty",
		"{a.example:443,b.example}/**": "braces are for a part of a name",
		"{a.example/x,b.example/y}":    "braces are for a part of a name",
		"registry.example.org:*/**":    "a port is written as it is",
		"quay.io/app:v1@":              "has no tag: write either :v1 or @",
		"**:v1@":                       "has no tag: write either :v1 or @",
		"quay.io/Team/**":              "repositories are written in lower case",
		"quay.io/private**":            "** stands between slashes alone",
		"docker.io/alpine":             "write docker.io/library/alpine",
		" quay.io/**":                  "there is a blank in it",
		"quay.io/**/":                  "nothing follows the last slash",
	} {
		_, err := rules.New([]rules.Rule{{Match: []string{"**"}}, {Match: []string{pattern}}})
		var wrong *rules.Error
		require.ErrorAs(t, err, &wrong, pattern)
		require.Equal(t, 2, wrong.Rule)
		require.ErrorContains(t, err, reason, pattern)
		require.ErrorContains(t, err, "rule 2: ")
	}
	_, err := rules.New([]rules.Rule{{}})
	require.ErrorContains(t, err, "it matches nothing")
	_, err = rules.New([]rules.Rule{{Match: []string{"**"}, Deny: true, Keys: []string{"a"}}})
	require.ErrorContains(t, err, "what is denied is not signed")
}

// FuzzFind has patterns and references of strangers. No pair of them may end
// the program, and what the one pattern for everything does not match is no
// reference.
func FuzzFind(f *testing.F) {
	for _, seed := range [][2]string{
		{"quay.io/**", "quay.io/app:v1"}, {"**:v*", "localhost:5000/app" + sum}, {"*.{a,b}/[x-z]?", "h.a/y1"},
	} {
		f.Add(seed[0], seed[1])
	}
	all, err := rules.New([]rules.Rule{{Match: []string{"**"}}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, pattern, reference string) {
		if _, ok, err := all.Find(reference); err == nil && !ok {
			t.Errorf("** does not match %q", reference)
		}
		list, err := rules.New([]rules.Rule{{Match: []string{pattern}}})
		if err != nil {
			return
		}
		_, _, _ = list.Find(reference)
	})
}
