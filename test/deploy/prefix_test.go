package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sedLine is the command that roles.conf gives for a fleet of other names.
var sedLine = regexp.MustCompile(`(?m)^#   sed '([^']+)' roles\.conf`)

// TestRolesOfAnotherFleet runs a fleet of other names with the roles that the
// command in deploy/nats/roles.conf makes for it.
func TestRolesOfAnotherFleet(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(shipped, "roles.conf"))
	require.NoError(t, err)
	line := sedLine.FindStringSubmatch(string(text))
	require.NotNil(t, line)
	dir := changed(t, "roles.conf", func(text string) string {
		sed := exec.CommandContext(t.Context(), "sed", line[1])
		sed.Stdin = strings.NewReader(text)
		out, err := sed.Output()
		require.NoError(t, err)
		return string(out)
	})
	s := launchIn(t, dir, "server.conf", nil).ready(t)
	f := newFleet(t, s.url)
	f.more = func(string) []string {
		return []string{"SIGNFLEET_STREAM_PREFIX=FLEET2", "SIGNFLEET_SUBJECT_PREFIX=fleet2"}
	}
	requireWorks(t, f, "FLEET2")

	// Of the fleet with the usual names these users may do nothing, and of their own
	// what the roles may, and no more.
	for role, subjects := range map[string][]string{
		"submitter": {"sign.request.bulk.00.b", "$KV.SIGN_BATCHES.b", "fleet2.request.event.hook.b", "fleet2.outcome.b.i.0", "$KV.FLEET2_CONTROL.lane.bulk"},
		"webhook":   {"sign.request.event.hook.b", "fleet2.request.bulk.00.b"},
		"worker":    {"sign.outcome.b.i.0", "$KV.SIGN_LOCKS.l", "$JS.ACK.SIGN_REQUESTS.bulk-00.1.1.1.1.0", "fleet2.request.bulk.00.b", "$KV.FLEET2_BATCHES.b"},
		"operator":  {"sign.request.bulk.00.b"},
	} {
		c := connect(t, s, role)
		for _, subject := range subjects {
			require.True(t, c.refusesPublish(subject), subject)
		}
	}
}

// requireWorks takes a fleet from its setup to a signed image, with a command of
// each role.
func requireWorks(t *testing.T, f *fleet, stream string) {
	t.Helper()
	image := f.push("team/app:1")
	require.Contains(t, f.setup(), "stream "+stream+"_REQUESTS: made")
	worker := f.worker()
	f.run(0, "submitter", "sign-submit", "--file", f.list("images.txt", image), "--batch", "night", "--detach")
	f.run(0, "submitter", "sign-submit", "wait", "night")
	f.requireSigned(image)
	require.Contains(t, f.run(0, "submitter", "sign-submit", "results", "night", "--output", "csv"), image)
	f.run(0, "operator", "sign-submit", "pause", "bulk")
	require.Contains(t, f.run(0, "submitter", "sign-submit", "status"), "bulk")
	f.run(0, "operator", "sign-submit", "resume", "bulk")
	f.drain(worker)
}
