package deploy_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/signfleet/signfleet/test/peers"
	"github.com/signfleet/signfleet/test/peers/build"
)

// patience bounds every wait: what takes longer will not come.
const patience = 2 * time.Minute

// roles are the users of deploy/nats/roles.conf.
var roles = []string{"submitter", "webhook", "worker", "operator"}

func passwordOf(role string) string { return "secret-of-" + role }

// server is a nats-server that runs with a configuration of deploy/nats.
type server struct{ address string }

// url is what a role connects to.
func (s server) url(role string) string {
	return fmt.Sprintf("nats://%s:%s@%s", role, passwordOf(role), s.address)
}

// startServer starts nats-server with deploy/nats/server.conf as it is; only
// where it listens is the test's.
func startServer(t *testing.T) server {
	t.Helper()
	n := launch(t, "server.conf", nil)
	return n.ready(t)
}

// natsProcess is a nats-server that may not be ready yet.
type natsProcess struct {
	*peers.Program
}

// launch starts nats-server with a file of deploy/nats, with the variables that
// the files ask for in its environment.
func launch(t *testing.T, file string, env []string, more ...string) natsProcess {
	t.Helper()
	return launchIn(t, shipped, file, env, more...)
}

// shipped is where the configurations are.
const shipped = "../../deploy/nats"

// launchIn is launch for a directory with a copy of deploy/nats.
func launchIn(t *testing.T, dir, file string, env []string, more ...string) natsProcess {
	t.Helper()
	path, err := build.Pinned(t.Context(), "nats-server")
	require.NoError(t, err)
	env = append(env, "SIGNFLEET_NATS_STORE="+t.TempDir())
	for _, role := range roles {
		env = append(env, "SIGNFLEET_"+strings.ToUpper(role)+"_PASSWORD="+serverPassword(t, role))
	}
	args := append([]string{"--config", filepath.Join(dir, file), "--addr", "127.0.0.1", "--port", "-1", "--http_port", "-1"}, more...)
	program, err := peers.StartProgram(t.Context(), peers.Command{Path: path, Args: args, Env: env})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, program.Kill())
		if t.Failed() {
			output := program.Output()
			t.Logf("nats-server %s:\n%s", file, output[max(0, len(output)-4<<10):])
		}
	})
	return natsProcess{program}
}

// changed is a copy of deploy/nats with one file of another content.
func changed(t *testing.T, file string, change func(string) string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(shipped)))
	path := filepath.Join(dir, file)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(change(string(text))), 0o600))
	return dir
}

// serverPassword is what the server is told of a role's password: of the worker's
// no more than a hash, as the file recommends.
func serverPassword(t *testing.T, role string) string {
	t.Helper()
	if role != "worker" {
		return passwordOf(role)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(passwordOf(role)), bcrypt.MinCost)
	require.NoError(t, err)
	return `"` + string(hash) + `"`
}

var (
	clientPort  = regexp.MustCompile(`Listening for client connections on (\S+)`)
	monitorPort = regexp.MustCompile(`Starting http monitor on (\S+)`)
)

// ready waits until the server says that it is well, as the health check of
// deploy/compose.yaml does, and returns where it listens.
func (n natsProcess) ready(t *testing.T) server {
	t.Helper()
	require.NoError(t, n.Says(t.Context(), regexp.MustCompile(`Server is ready`), patience))
	monitor := monitorPort.FindStringSubmatch(n.Output())
	client := clientPort.FindStringSubmatch(n.Output())
	require.NotNil(t, monitor)
	require.NotNil(t, client)
	require.Eventually(t, func() bool { return healthy(t.Context(), monitor[1]) }, patience, 20*time.Millisecond)
	return server{client[1]}
}

func healthy(ctx context.Context, address string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
}
