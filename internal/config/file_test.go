package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/rules"
)

func TestUnknownKeysAreSuggested(t *testing.T) {
	isolate(t)
	for text, says := range map[string]string{
		"nats_url: x\n":          "unknown key nats_url (did you mean nats-url?)",
		"natsUrl: x\n":           "(did you mean nats-url?)",
		"sigstore-keys: [a]\n":   "unknown key sigstore-keys (did you mean sigstore-key?)",
		"shutdown-grase: 1s\n":   "(did you mean shutdown-grace?)",
		"rule:\n- match: '**'\n": "unknown key rule (did you mean rules?)",
		"something: 1\n":         "unknown key something: ",
	} {
		file := writeFile(t, "w.yaml", text)
		_, err := config.Read(program(t), "sign-worker", file, config.RulesKey)
		require.ErrorContains(t, err, says, text)
		_, err = config.ReadFile(program(t), "sign-worker", file, config.RulesKey)
		require.ErrorContains(t, err, says, text)
	}
}

func TestAFileAlone(t *testing.T) {
	dir := isolate(t)
	_, err := config.ReadFile(program(t), "sign-worker", "")
	require.ErrorContains(t, err, "there is no sign-worker.yaml in ., "+filepath.Join(dir, "config", "signfleet")+", /etc/signfleet")

	file := writeFile(t, filepath.Join(dir, "sign-worker.yaml"), "attempts: 9\narch: [s390x]\n")
	t.Setenv("SIGNFLEET_JOBS", "many")
	t.Setenv("SIGNFLEET_ATTEMPTS", "2")
	source, err := config.ReadFile(program(t), "sign-worker", "")
	require.NoError(t, err)
	require.Equal(t, "sign-worker.yaml", source.File)
	var s settings
	require.NoError(t, source.Into(&s), "the environment says nothing of the file")
	require.Equal(t, 9, s.Attempts)
	require.Equal(t, 4, s.Jobs)
	require.Equal(t, []string{"s390x"}, s.Arch)
	require.True(t, source.Given("attempts"))
	require.False(t, source.Given("jobs"))
	require.Equal(t, "attempts in sign-worker.yaml", source.Where("attempts"))

	_, err = config.ReadFile(program(t), "sign-worker", file+".none")
	require.ErrorContains(t, err, file+".none")
}

// What is printed is a configuration file with the same settings, and without
// the password.
func TestPrint(t *testing.T) {
	dir := isolate(t)
	file := writeFile(t, filepath.Join(dir, "w.yaml"), "nats-url: nats://worker:pa55@one:4222,two:4222\ntimeout: 90s\n"+
		"annotation: ['a=b,c']\nrules:\n- match: quay.io/**\n")
	t.Setenv("SIGNFLEET_HOST_RATE", "2.5")
	source, s := readWithRules(t, file, "--jobs", "7", "--tls-verify=false")
	var text strings.Builder
	require.NoError(t, source.Print(&text))
	for _, line := range []string{
		"jobs: 7 # --jobs", "host-rate: 2.5 # SIGNFLEET_HOST_RATE", "timeout: 1m30s # " + file,
		"nats-url: nats://xxxxx@one:4222,nats://two:4222 # " + file, "tls-verify: false # --tls-verify",
		"attempts: 4", "arch: [amd64, arm64]", "annotation: ['a=b,c'] # " + file, "rules: # " + file,
	} {
		require.Contains(t, text.String(), line+"\n")
	}
	require.NotContains(t, text.String(), "pa55")
	require.NotContains(t, text.String(), "help")

	var printed map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text.String()), &printed))
	again := writeFile(t, filepath.Join(dir, "again.yaml"), text.String())
	t.Setenv("SIGNFLEET_HOST_RATE", "")
	source, same := readWithRules(t, again)
	s.NATSURL = "nats://xxxxx@one:4222,nats://two:4222"
	require.Equal(t, s, same)
	list, err := source.Rules()
	require.NoError(t, err)
	require.Equal(t, []rules.Rule{{Match: []string{"quay.io/**"}}}, list)
}

func readWithRules(t *testing.T, file string, args ...string) (*config.Source, settings) {
	t.Helper()
	source, err := config.Read(program(t, args...), "sign-worker", file, config.RulesKey)
	require.NoError(t, err)
	var s settings
	require.NoError(t, source.Into(&s))
	return source, s
}

func TestWhatHasChanged(t *testing.T) {
	dir := isolate(t)
	file := filepath.Join(dir, "w.yaml")
	reading := func(text string) *config.Source {
		writeFile(t, file, text)
		source, _ := readWithRules(t, file)
		return source
	}
	before := reading("jobs: 5\nformat: tag\nrules:\n- match: a.b/**\n")
	require.Empty(t, reading("rules:\n- match: a.b/**\nformat: [tag]\njobs: 5\n").Changed(before), "said in other words")
	changed := reading("jobs: 6\nformat: [tag, referrer]\nrules:\n- match: a.c/**\n").Changed(before)
	require.Equal(t, []string{"format", "jobs", "rules"}, changed)
	require.Equal(t, []string{"jobs"}, config.NeedRestart(changed))
	require.Empty(t, config.NeedRestart([]string{"policy", "rules"}))
}

func TestReloadableAreSettings(t *testing.T) {
	t.Parallel()
	flags := program(t)
	for _, name := range config.Reloadable {
		require.NotNil(t, flags.Lookup(name), name)
	}
}

func TestStamps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	none := config.StampOf(file)
	require.True(t, none.Same(config.StampOf(file)), "still not there")
	writeFile(t, file, "one")
	first := config.StampOf(file)
	require.False(t, first.Same(none))
	require.True(t, first.Same(config.StampOf(file)))

	// As long, and of the same time, but another file: what a secret's volume does.
	other := writeFile(t, filepath.Join(dir, "other"), "two")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.NoError(t, os.Chtimes(other, time.Time{}, info.ModTime()))
	require.NoError(t, os.Rename(other, file))
	require.False(t, first.Same(config.StampOf(file)))
}
