package config_test

import (
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
)

// connection are the options that flags turn into, and the files among them.
func connection(t *testing.T, args ...string) (queue.Options, []string) {
	t.Helper()
	flags := pflag.NewFlagSet("sign-submit", pflag.ContinueOnError)
	config.CommonFlags(flags)
	require.NoError(t, flags.Parse(args))
	source, err := config.Read(flags, "no-such-program", "")
	require.NoError(t, err)
	var n config.NATS
	require.NoError(t, source.Into(&n))
	return n.Connect("nats://nats.example.org", queue.Options{Role: queue.RoleWorker}), n.InputFiles()
}

func TestConnectionIsTheFlags(t *testing.T) {
	t.Parallel()
	o, files := connection(t)
	require.Equal(t, queue.Options{URL: "nats://nats.example.org", Role: queue.RoleWorker, StreamPrefix: "SIGN", SubjectPrefix: "sign"}, o)
	require.Empty(t, files)

	o, files = connection(t, "--nats-creds=c", "--nats-nkey=n", "--nats-user=u", "--nats-password-file=p", "--nats-ca=a",
		"--nats-cert=t", "--nats-key=k", "--stream-prefix=FLEET2", "--subject-prefix=fleet2")
	require.Equal(t, queue.Options{
		URL: "nats://nats.example.org", Role: queue.RoleWorker,
		Creds: "c", NKey: "n", User: "u", PasswordFile: "p", CA: "a", Cert: "t", Key: "k",
		StreamPrefix: "FLEET2", SubjectPrefix: "fleet2",
	}, o)
	require.ElementsMatch(t, []string{"c", "n", "p", "a", "t", "k"}, files)
}

func TestNATSSettingsAreKnown(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"nats-url", "nats-creds", "nats-key", "subject-prefix"} {
		require.True(t, config.IsNATS(name), name)
	}
	for _, name := range []string{"jobs", "sigstore-key", "config", "nats"} {
		require.False(t, config.IsNATS(name), name)
	}
}
