package queuetest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// StartServerWithRoles runs a NATS server with the users of a roles.conf, whose
// passwords are their names, until the test ends. It returns the URL of a role,
// or, for none, that of a client without a user.
func StartServerWithRoles(t testing.TB, file string) (url func(queue.Role) string) {
	t.Helper()
	roles, err := os.ReadFile(file)
	require.NoError(t, err)
	// Its passwords are variables: what comes before them in a file has the
	// precedence over the environment, which belongs to all tests at once.
	var config strings.Builder
	for _, role := range []queue.Role{queue.RoleSubmitter, queue.RoleWebhook, queue.RoleWorker, queue.RoleOperator} {
		fmt.Fprintf(&config, "SIGNFLEET_%s_PASSWORD: %q\n", strings.ToUpper(string(role)), role)
	}
	config.Write(roles)
	srv := StartServerWith(t, func(o *server.Options) { require.NoError(t, o.ProcessConfigString(config.String())) })
	return func(role queue.Role) string {
		if role == "" {
			return srv.ClientURL()
		}
		return strings.Replace(srv.ClientURL(), "://", fmt.Sprintf("://%[1]s:%[1]s@", role), 1)
	}
}
