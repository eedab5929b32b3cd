package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/rules"
)

func TestRules(t *testing.T) {
	dir := isolate(t)
	source, s := readWithRules(t, writeFile(t, filepath.Join(dir, "w.yaml"), `
sigstore-key: [a.key, b.key]
format: tag
rules:
  - match: registry.example.org/private/**
    deny: true
  - match: ["quay.io/{a,b}/**", "quay.io/c/*:v*"]
    keys: [b.key]
    format: tag,referrer
    identity: quay.io/a=docker.io
  - match: "**"
    deny: false
`))
	list, err := source.Rules()
	require.NoError(t, err)
	require.Equal(t, []rules.Rule{
		{Match: []string{"registry.example.org/private/**"}, Deny: true},
		{
			Match: []string{"quay.io/{a,b}/**", "quay.io/c/*:v*"}, Keys: []string{"b.key"},
			Formats: []string{"tag,referrer"}, Identities: []string{"quay.io/a=docker.io"},
		},
		{Match: []string{"**"}},
	}, list)
	require.NoError(t, s.CheckRules(list))

	under, err := s.Under(list[1]).Sign()
	require.NoError(t, err)
	require.Len(t, under.Formats, 2)
	require.Len(t, under.Identities, 1)
	under, err = s.Under(list[2]).Sign()
	require.NoError(t, err)
	require.Len(t, under.Formats, 1, "that for all")

	for _, none := range []string{"jobs: 4\n", "rules: []\n"} {
		source, _ := readWithRules(t, writeFile(t, filepath.Join(dir, "none.yaml"), none))
		list, err := source.Rules()
		require.NoError(t, err)
		require.Empty(t, list)
	}
}

func TestRulesAreRefused(t *testing.T) {
	dir := isolate(t)
	_, err := config.Read(program(t), "sign-worker", writeFile(t, filepath.Join(dir, "w.yaml"), "rules:\n"), config.RulesKey)
	require.ErrorContains(t, err, "rules: nothing is under it")
	t.Setenv("SIGNFLEET_RULES", "abc") // nobody has such a variable
	for text, says := range map[string]string{
		"rules: all\n":                              "it is no list",
		"rules:\n- quay.io/**\n":                    "rule 1: quay.io/** is no rule",
		"rules:\n- match: '**'\n  dny: true\n":      "rule 1: unknown key dny (did you mean deny?)",
		"rules:\n- match: '**'\n- deny: true\n":     "rule 2: it matches nothing",
		"rules:\n- match: '**'\n  deny: 1\n":        "rule 1: deny: \"1\" is neither true nor false",
		"rules:\n- match: 5\n":                      "rule 1: match: 5 is no text",
		"rules:\n- match: alpine\n":                 "rule 1: match \"alpine\": a host and a repository are needed",
		"rules:\n- match: '**'\n  keys: []\n":       "rule 1: keys: it is empty",
		"rules:\n- match: '**'\n  keys:\n":          "rule 1: keys: ",
		"rules:\n- match: '**'\n  format: sig\n":    "rule 1: format: ",
		"rules:\n- match: '**'\n  identity: quay\n": "rule 1: identity: ",
	} {
		file := writeFile(t, filepath.Join(dir, "w.yaml"), text)
		source, _ := readWithRules(t, file)
		_, err := source.Rules()
		require.ErrorContains(t, err, says, text)
		require.ErrorContains(t, err, "configuration "+file+": rules: ", text)
	}
	keys := config.Signing{Keys: []string{"a.key"}}
	require.ErrorContains(t, keys.CheckRules([]rules.Rule{{}, {Keys: []string{"a.key", "b.key"}}}), "rules: rule 2: keys: b.key is none of")
	require.NoError(t, keys.CheckRules([]rules.Rule{{Keys: []string{"sha256:" + strings.Repeat("0f", 32)}}}), "it may be that of a.key")
	require.NoError(t, config.Signing{}.CheckRules([]rules.Rule{{Keys: []string{"a.key"}}}), "they may be named by a flag")
}

// The example in the file that is shipped is one.
func TestShippedRules(t *testing.T) {
	shipped, err := os.ReadFile("../../configs/sign-worker.yaml")
	require.NoError(t, err)
	isolate(t)
	_, example, ok := strings.Cut(string(shipped), "\n# rules:\n")
	require.True(t, ok)
	example, _, ok = strings.Cut(example, "\nrules: []\n")
	require.True(t, ok)
	example = "rules:\n" + strings.TrimPrefix(strings.ReplaceAll("\n"+example, "\n# ", "\n"), "\n") + "\n"
	source, _ := readWithRules(t, writeFile(t, "w.yaml", example))
	list, err := source.Rules()
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.True(t, list[0].Deny)
	require.Equal(t, []string{"/etc/signfleet/teams.key"}, list[1].Keys)
}
