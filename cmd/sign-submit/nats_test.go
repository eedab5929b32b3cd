package main

import (
	"io"
	"os"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// A command that goes on says how to get to the same fleet, and no password.
func TestGoingOnLeadsToTheSameFleet(t *testing.T) {
	t.Parallel()
	given := []string{
		"--config", os.DevNull, "--nats-url", "tls://nats.example.org", "--nats-creds", "a creds", "--nats-ca", "ca.pem",
		"--stream-prefix", "FLEET2", "--subject-prefix", "fleet2",
	}
	flags := pflag.NewFlagSet("status", pflag.ContinueOnError)
	askingFlags(flags, "", outputText)
	require.NoError(t, flags.Parse(given))
	a, err := readAsking(flags, streams{err: io.Discard}, outputText)
	require.NoError(t, err)
	require.Equal(t, "sign-submit --file LIST --nats-url tls://nats.example.org --nats-ca ca.pem --nats-creds 'a creds' "+
		"--stream-prefix FLEET2 --subject-prefix fleet2 --resume nightly", a.commandToGoOn("nightly"))

	flags = pflag.NewFlagSet("sign-submit", pflag.ContinueOnError)
	defineFlags(flags)
	require.NoError(t, flags.Parse(append(given, "--file", os.DevNull)))
	s, err := readSettings(t.Context(), flags, streams{err: io.Discard})
	require.NoError(t, err)
	defer s.cleanup() //nolint:errcheck // a file without a name
	require.Equal(t, "sign-submit --config=/dev/null --file=/dev/null --nats-ca=ca.pem '--nats-creds=a creds' --nats-url=tls://nats.example.org "+
		"--stream-prefix=FLEET2 --subject-prefix=fleet2 --resume nightly", commandToGoOn(s, "nightly"))

	// A default that a file spells out is none that was given.
	flags = pflag.NewFlagSet("status", pflag.ContinueOnError)
	askingFlags(flags, "", outputText)
	require.NoError(t, flags.Parse([]string{"--config", os.DevNull, "--nats-url", "nats://user:hidden@nats.example.org"}))
	a, err = readAsking(flags, streams{err: io.Discard}, outputText)
	require.NoError(t, err)
	require.Equal(t, "--nats-url nats://xxxxx@nats.example.org", a.fleetFlags())
}
