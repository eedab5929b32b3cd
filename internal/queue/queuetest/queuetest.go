// Package queuetest gives tests a queue of their own: a real NATS server with
// JetStream in the test's process.
package queuetest

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// StartServer runs a NATS server on a port of its own until the test ends.
func StartServer(t testing.TB) *server.Server {
	t.Helper()
	return StartServerWith(t, nil)
}

// StartServerWith is StartServer with options of the test's own.
func StartServerWith(t testing.TB, change func(*server.Options)) *server.Server {
	t.Helper()
	return start(t, server.RANDOM_PORT, t.TempDir(), change)
}

// Restart ends srv and starts a server on its store and port in its place.
// Connections to the old one find the new one.
func Restart(t testing.TB, srv *server.Server) *server.Server {
	t.Helper()
	return Stop(t, srv)()
}

// Stop ends srv; what it returns starts a server on its store and port in its place.
func Stop(t testing.TB, srv *server.Server) (again func() *server.Server) {
	t.Helper()
	addr, ok := srv.Addr().(*net.TCPAddr)
	require.True(t, ok, "NATS server does not listen")
	// The server keeps its store in a directory of its own in the one it is given.
	dir := filepath.Dir(srv.JetStreamConfig().StoreDir)
	srv.Shutdown()
	srv.WaitForShutdown()
	return func() *server.Server { return start(t, addr.Port, dir, nil) }
}

func start(t testing.TB, port int, dir string, change func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	}
	if change != nil {
		change(o)
	}
	srv, err := server.NewServer(o)
	require.NoError(t, err)
	srv.Start()
	require.True(t, srv.ReadyForConnections(30*time.Second), "NATS server did not start")
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	return srv
}

// Connect opens a connection to srv, with its streams set up, until the test
// ends. Zero options are fitted to tests: no byte limits and short waits.
func Connect(t testing.TB, srv *server.Server, o queue.Options) *queue.Conn {
	t.Helper()
	o.URL, o.Unlimited = srv.ClientURL(), true
	if o.AckWait == 0 {
		o.AckWait = 2 * time.Second
	}
	if o.PollInterval == 0 {
		o.PollInterval = 50 * time.Millisecond
	}
	if o.IdleWait == 0 {
		o.IdleWait = 500 * time.Millisecond
	}
	conn, err := queue.Connect(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	_, err = conn.Setup(t.Context())
	require.NoError(t, err)
	return conn
}

// Publish stores a message under a subject as somebody might who is no client
// of the queue.
func Publish(t testing.TB, srv *server.Server, subject string, data []byte) {
	t.Helper()
	nc, err := nats.Connect(srv.ClientURL())
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Request(subject, data, 10*time.Second)
	require.NoError(t, err)
}
