package config_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/config"
)

// The environment belongs to the whole process: a test that sets it, or that
// looks for files where it says, does not run beside others.

// isolate lets a test see no configuration of this machine.
func isolate(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv("HOME", dir)
	t.Chdir(dir)
	return dir
}

// program is one with a few settings of each kind.
func program(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	flags := pflag.NewFlagSet("sign-worker", pflag.ContinueOnError)
	config.SigningFlags(flags, config.Signing{Jobs: 4, Timeout: 10 * time.Minute, Attempts: 4, Backoff: time.Second, MaxWait: time.Hour, ShutdownGrace: 30 * time.Second})
	config.TelemetryFlags(flags)
	flags.StringSlice("arch", []string{"amd64", "arm64"}, "")
	flags.Bool("help", false, "")
	flags.Bool("version", false, "")
	require.NoError(t, flags.Parse(args))
	return flags
}

type settings struct {
	config.Signing `mapstructure:",squash"`
	Arch           []string `mapstructure:"arch"`
}

func read(t *testing.T, flags *pflag.FlagSet, file string) (*config.Source, settings) {
	t.Helper()
	source, err := config.Read(flags, "sign-worker", file)
	require.NoError(t, err)
	var s settings
	require.NoError(t, source.Into(&s))
	return source, s
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestDefaults(t *testing.T) {
	isolate(t)
	source, s := read(t, program(t), "")
	require.Empty(t, source.File)
	require.Equal(t, 4, s.Jobs)
	require.Equal(t, 10*time.Minute, s.Timeout)
	require.Equal(t, time.Hour, s.MaxWait)
	require.True(t, s.TLSVerify)
	require.Equal(t, []string{"amd64", "arm64"}, s.Arch)
	require.False(t, source.Given("jobs"))
}

func TestPrecedence(t *testing.T) {
	dir := isolate(t)
	file := writeFile(t, filepath.Join(dir, "w.yaml"), "jobs: 5\nattempts: 5\ntimeout: 5s\ntls-verify: false\narch: [s390x]\n")

	t.Setenv("SIGNFLEET_JOBS", "6")
	t.Setenv("SIGNFLEET_ATTEMPTS", "6")
	t.Setenv("SIGNFLEET_MAX_WAIT", "6s")
	source, s := read(t, program(t, "--jobs", "7", "--backoff=7s"), file)
	require.Equal(t, 7, s.Jobs, "a flag before the environment")
	require.Equal(t, 6, s.Attempts, "the environment before the file")
	require.Equal(t, 5*time.Second, s.Timeout, "the file before the default")
	require.Equal(t, 7*time.Second, s.Backoff)
	require.Equal(t, 6*time.Second, s.MaxWait)
	require.False(t, s.TLSVerify)
	require.Equal(t, []string{"s390x"}, s.Arch)

	require.Equal(t, "--jobs", source.Where("jobs"))
	require.Equal(t, "SIGNFLEET_ATTEMPTS", source.Where("attempts"))
	require.Equal(t, "timeout in "+file, source.Where("timeout"))
	for _, name := range []string{"jobs", "attempts", "timeout", "tls-verify", "max-wait", "backoff"} {
		require.True(t, source.Given(name), name)
	}
	require.False(t, source.Given("format"))
}

func TestListsInTheEnvironment(t *testing.T) {
	isolate(t)
	t.Setenv("SIGNFLEET_ARCH", "amd64,riscv64")
	_, s := read(t, program(t), "")
	require.Equal(t, []string{"amd64", "riscv64"}, s.Arch)
}

// Values that have commas of their own go through flags and lists of a file.
func TestListsAreReadWhereverTheyStand(t *testing.T) {
	dir := isolate(t)
	flags := []string{"--annotation", "a=1,2", "--annotation", "b=x", "-k", "one.key,two.key", "-k", "three.key"}
	source, s := read(t, program(t, flags...), "")
	require.Equal(t, []string{"a=1,2", "b=x"}, s.Annotations)
	require.Equal(t, []string{"one.key", "two.key", "three.key"}, s.Keys)
	require.Equal(t, []string{"--annotation=a=1,2", "--annotation=b=x", "--sigstore-key=one.key,two.key,three.key"}, given(source))

	file := writeFile(t, filepath.Join(dir, "list.yaml"), `
annotation: ["a=1,2", b=x]
sigstore-key: ["one,1.key", two.key]
host-rate: 50
format: [tag, referrer]
`)
	source, s = read(t, program(t), file)
	require.Equal(t, []string{"a=1,2", "b=x"}, s.Annotations)
	require.Equal(t, []string{"one,1.key", "two.key"}, s.Keys)
	require.Equal(t, []string{"tag", "referrer"}, s.Formats)
	require.InDelta(t, 50, s.HostRate, 0)
	require.Equal(t, []string{
		"--annotation=a=1,2", "--annotation=b=x", "--format=tag,referrer", "--host-rate=50", `--sigstore-key="one,1.key",two.key`,
	}, given(source))

	t.Setenv("SIGNFLEET_ANNOTATION", "c=3,d=4 5")
	t.Setenv("SIGNFLEET_SIGSTORE_KEY", "four.key,my five.key")
	t.Setenv("SIGNFLEET_HOST_RATE", "2.5")
	t.Setenv("SIGNFLEET_FORMAT", "referrer")
	source, s = read(t, program(t), "")
	require.Equal(t, []string{"c=3", "d=4 5"}, s.Annotations)
	require.Equal(t, []string{"four.key", "my five.key"}, s.Keys)
	require.InDelta(t, 2.5, s.HostRate, 0)
	require.Equal(t, []string{"--annotation=c=3", "--annotation=d=4 5", "--format=referrer", "--host-rate=2.5", "--sigstore-key=four.key,my five.key"}, given(source))
}

// A text stands for a list of one, or of several between commas.
func TestTextOfAListInTheFile(t *testing.T) {
	dir := isolate(t)
	source, s := read(t, program(t), writeFile(t, filepath.Join(dir, "w.yaml"), "sigstore-key: my one.key\nannotation: a=1,b=2\n"))
	require.Equal(t, []string{"my one.key"}, s.Keys)
	require.Equal(t, []string{"a=1", "b=2"}, s.Annotations)
	require.Equal(t, []string{"--annotation=a=1", "--annotation=b=2", "--sigstore-key=my one.key"}, given(source))
}

func TestDefaultsInTheFileAreNotGiven(t *testing.T) {
	dir := isolate(t)
	source, s := read(t, program(t), writeFile(t, filepath.Join(dir, "w.yaml"), `
sigstore-key: ""
annotation: []
identity: ""
format: tag
host-rate: 0.0
`))
	require.Empty(t, given(source))
	require.Empty(t, s.Keys)
	require.Empty(t, s.Annotations)
}

// given are the settings that were given, as flags.
func given(source *config.Source) []string {
	var flags []string
	source.VisitGiven(func(name, value string) { flags = append(flags, "--"+name+"="+value) })
	return flags
}

func TestEmptyVariableIsNone(t *testing.T) {
	isolate(t)
	t.Setenv("SIGNFLEET_JOBS", "")
	source, s := read(t, program(t), "")
	require.Equal(t, 4, s.Jobs)
	require.False(t, source.Given("jobs"))
}

func TestFileIsFound(t *testing.T) {
	dir := isolate(t)
	_, s := read(t, program(t), "")
	require.Equal(t, 4, s.Jobs)

	user := writeFile(t, filepath.Join(dir, "config", "signfleet", "sign-worker.yaml"), "jobs: 5\n")
	source, s := read(t, program(t), "")
	require.Equal(t, 5, s.Jobs)
	require.Equal(t, user, source.File)

	writeFile(t, filepath.Join(dir, "sign-worker.yaml"), "jobs: 6\n")
	_, s = read(t, program(t), "")
	require.Equal(t, 6, s.Jobs, "the current directory first")

	t.Setenv("SIGNFLEET_CONFIG", writeFile(t, filepath.Join(dir, "other.yaml"), "jobs: 7\n"))
	_, s = read(t, program(t), "")
	require.Equal(t, 7, s.Jobs, "the one that is named before those that are found")

	_, s = read(t, program(t), writeFile(t, filepath.Join(dir, "flag.yaml"), "jobs: 8\n"))
	require.Equal(t, 8, s.Jobs)
}

func TestFileIsRefused(t *testing.T) {
	dir := isolate(t)
	for name, test := range map[string]struct{ text, says string }{
		"unknown key":         {"jobs: 5\njob: 5\n", "job"},
		"unknown nested key":  {"nats:\n  url: nats://x\n", "nats.url"},
		"several":             {"b-b: 1\na-a: 2\n", "a-a, b-b"},
		"not for a file":      {"config: other.yaml\n", "config"},
		"nor this":            {"version: 1\n", "version"},
		"not YAML":            {"jobs: [5\n", "bad.yaml"},
		"not a mapping":       {"- jobs\n", "bad.yaml"},
		"in capital letters":  {"jobs: 5\nJobs: 6\n", "Jobs and jobs are one key"},
		"two documents":       {"jobs: 5\n---\njobs: 6\n", "several documents"},
		"the same key, twice": {"jobs: 5\njobs: 6\n", "bad.yaml"},
	} {
		file := writeFile(t, filepath.Join(dir, "bad.yaml"), test.text)
		_, err := config.Read(program(t), "sign-worker", file)
		require.ErrorContains(t, err, test.says, name)
		require.ErrorContains(t, err, file, name)
	}
	_, err := config.Read(program(t), "sign-worker", filepath.Join(dir, "none.yaml"))
	require.ErrorContains(t, err, "none.yaml")
}

func TestValueIsRefused(t *testing.T) {
	isolate(t)
	t.Setenv("SIGNFLEET_JOBS", "many")
	source, err := config.Read(program(t), "sign-worker", "")
	require.NoError(t, err)
	var s settings
	err = source.Into(&s)
	require.ErrorContains(t, err, "jobs")
	require.NotContains(t, err.Error(), "\n")
}

func TestRegistryOptions(t *testing.T) {
	isolate(t)
	source, s := read(t, program(t), "")
	require.Nil(t, s.Registry(source, "ua", nil).TLSVerify, "not given: registries.conf decides")
	for value, want := range map[string]bool{"true": true, "false": false} {
		source, s := read(t, program(t, "--tls-verify="+value, "--authfile=a", "--cert-dir=c", "--host-requests=7", "--host-rate=7.5"), "")
		o := s.Registry(source, "ua", nil)
		require.Equal(t, want, *o.TLSVerify)
		require.Equal(t, "a", o.AuthFile)
		require.Equal(t, "c", o.CertsDir)
		require.Equal(t, "ua", o.UserAgent)
		require.Equal(t, 7, o.HostConcurrency)
		require.InDelta(t, 7.5, o.HostRate, 0)
	}
}

// A setting that is refused or ignored beside a fleet must be one there is.
func TestWorkerOnlyAreSettings(t *testing.T) {
	t.Parallel()
	flags := program(t)
	for _, name := range config.WorkerOnly {
		require.NotNil(t, flags.Lookup(name), name)
	}
}

func TestWorkerName(t *testing.T) {
	t.Parallel()
	one, two := config.WorkerName(), config.WorkerName()
	require.NotEqual(t, one, two)
	require.Regexp(t, `^[a-z0-9-]{1,64}$`, one)
}
