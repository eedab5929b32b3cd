package queue_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test that would wait for ever. Nothing is asserted on it.
const patience = 60 * time.Second

// never is a wait that a passing test does not live to see the end of.
const never = time.Hour

// newQueue is a server of the test's own and a connection to it.
func newQueue(t testing.TB, o queue.Options) (*server.Server, *queue.Conn) {
	t.Helper()
	srv := queuetest.StartServer(t)
	return srv, connect(t, srv, o)
}

func connect(t testing.TB, srv *server.Server, o queue.Options) *queue.Conn {
	t.Helper()
	if o.Partitions == 0 {
		o.Partitions = 3
	}
	return queuetest.Connect(t, srv, o)
}

// stranger is a connection that sets nothing up.
func stranger(t testing.TB, srv *server.Server, o queue.Options) *queue.Conn {
	t.Helper()
	o.URL, o.Unlimited, o.PollInterval = srv.ClientURL(), o.RecordBytes == 0, 50*time.Millisecond
	conn, err := queue.Connect(within(t), o)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// raw is a client that knows nothing of this queue: an operator, or a stranger.
func raw(t testing.TB, srv *server.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(srv.ClientURL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func request(batch string, seq int) queue.Request {
	line := fmt.Sprintf("r.example/%s/app:%d", batch, seq)
	return queue.Request{
		Batch: batch, Seq: seq, Line: queue.Text(line), Reference: line, Timeout: queue.Seconds(time.Minute),
		SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}.Sealed()
}

// publish puts n requests of a batch into a partition.
func publish(t testing.TB, conn *queue.Conn, partition int, batch string, n int) {
	t.Helper()
	p := conn.Publisher(partition)
	for seq := 1; seq <= n; seq++ {
		require.NoError(t, p.Publish(within(t), request(batch, seq)))
	}
	require.NoError(t, p.Flush(within(t)))
	require.Equal(t, n, p.Accepted())
}

func next(t testing.TB, lane *queue.Lane, free int) []*queue.Delivery {
	t.Helper()
	got, err := lane.Next(within(t), free)
	require.NoError(t, err)
	require.NotEmpty(t, got)
	require.LessOrEqual(t, len(got), free)
	return got
}

func one(t testing.TB, lane *queue.Lane) *queue.Delivery {
	t.Helper()
	return next(t, lane, 1)[0]
}

func eventually(t testing.TB, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

// stored is the number of messages in a stream.
func stored(t testing.TB, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(within(t), stream)
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}

func TestConnectTellsNoSecrets(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"nats://someone:s3cret@127.0.0.1:1", "someone:s3cret@127.0.0.1:1", "s3cret@127.0.0.1:1",
		"nats://someone:s3cret%zz@127.0.0.1:1", "nats://someone:s3cret@127.0.0.1:port",
	} {
		_, err := queue.Connect(within(t), queue.Options{URL: url})
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "s3cret", url)
	}
	_, err := queue.Connect(within(t), queue.Options{URL: "127.0.0.1:1"})
	require.ErrorContains(t, err, "nats://127.0.0.1:1")
}

// oldServer says that it is of some version, and knows no more than a handshake.
type oldServer struct {
	version string
	group   sync.WaitGroup
}

func (s *oldServer) InProcessConn() (net.Conn, error) {
	client, conn := net.Pipe()
	s.group.Go(func() {
		defer conn.Close() //nolint:errcheck // the client is gone
		_, _ = fmt.Fprintf(conn, "INFO {\"version\":%q,\"max_payload\":1024,\"proto\":1,\"headers\":true}\r\n", s.version)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if lines.Text() == "PING" {
				_, _ = fmt.Fprint(conn, "PONG\r\n")
			}
		}
	})
	return client, nil
}

func TestAnOldServerIsRefused(t *testing.T) {
	t.Parallel()
	for version, refused := range map[string]bool{
		"2.10.29": true, "1.4.1": true, "2.9.0-beta.1": true,
		"2.11.0": false, "2.15.2": false, "v2.12.0-RC.1": false, "3.0.0": false, "": false, "of my own": false,
	} {
		srv := &oldServer{version: version}
		conn, err := queue.Connect(within(t), queue.Options{InProcess: srv})
		if refused {
			require.ErrorContains(t, err, "nats-server "+version+", and 2.11 or later is needed")
		} else {
			require.NoError(t, err, version)
			conn.Close()
		}
		srv.group.Wait()
	}
}

func TestOptionsThatCannotBeObeyedAreNamed(t *testing.T) {
	t.Parallel()
	url := "nats://127.0.0.1:1"
	for want, o := range map[string]queue.Options{
		"nats-url":   {},
		"partitions": {URL: url, Partitions: 101},
		"negative":   {URL: url, AckWait: -1},
		"lock-ttl":   {URL: url, LockTTL: 1500 * time.Millisecond},
	} {
		require.ErrorContains(t, o.Validate(), want)
	}
	require.NoError(t, queue.Options{URL: url}.Validate())
}
