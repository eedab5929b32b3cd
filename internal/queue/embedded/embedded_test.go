package embedded_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, dir string, o queue.Options) (*embedded.Server, *queue.Conn) {
	t.Helper()
	srv, err := embedded.Start(dir)
	require.NoError(t, err)
	conn, err := srv.Connect(t.Context(), o)
	require.NoError(t, err)
	return srv, conn
}

func stop(t *testing.T, srv *embedded.Server, conn *queue.Conn) {
	t.Helper()
	conn.Close()
	require.NoError(t, srv.Stop())
}

func TestADirectoryHasOneProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "state")
	srv, conn := start(t, dir, queue.Options{})

	_, err := embedded.Start(dir)
	var busy *embedded.BusyError
	require.ErrorAs(t, err, &busy)
	require.Equal(t, os.Getpid(), busy.PID)
	require.Equal(t, dir, busy.Dir)
	require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getpid()))

	stop(t, srv, conn)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	srv, conn = start(t, dir, queue.Options{})
	stop(t, srv, conn)
}

func TestARestartFindsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := queue.Options{AckWait: time.Second}
	srv, conn := start(t, dir, o)
	require.Equal(t, 1, conn.Partitions())
	p := conn.Publisher(0)
	for seq := 1; seq <= 3; seq++ {
		r := queue.Request{Batch: "b", Seq: seq, Reference: fmt.Sprint("r.example/app:", seq)}
		require.NoError(t, p.Publish(t.Context(), r.Sealed()))
	}
	require.NoError(t, p.Flush(t.Context()))
	require.NoError(t, conn.CreateBatch(t.Context(), queue.Batch{ID: "b", Total: 3}))
	got, err := conn.BulkLane().Next(t.Context(), 1)
	require.NoError(t, err)
	first := got[0].Request
	_, err = conn.Record(t.Context(), queue.Outcome{Batch: "b", ID: first.ID, Seq: 1, Verdict: queue.Signed})
	require.NoError(t, err)
	require.NoError(t, got[0].Done(t.Context()))
	_, err = conn.BulkLane().Next(t.Context(), 1) // in hand when the process ends
	require.NoError(t, err)
	lease, err := conn.Locker("w").Lock(t.Context(), "x") // and so is this
	require.NoError(t, err)
	stop(t, srv, conn)
	_ = lease.Unlock()

	srv, conn = start(t, dir, o)
	b, err := conn.Batch(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, 3, b.Total)
	o1, err := conn.Outcome(t.Context(), "b", first.ID, 0)
	require.NoError(t, err)
	require.Equal(t, queue.Signed, o1.Verdict)
	lease, err = conn.Locker("w").Lock(t.Context(), "x")
	require.NoError(t, err)
	require.NoError(t, lease.Unlock())
	seen := map[int]int{}
	lane := conn.BulkLane()
	for len(seen) < 2 {
		got, err := lane.Next(t.Context(), 4)
		require.NoError(t, err)
		for _, d := range got {
			seen[d.Request.Seq] = d.Delivered
			require.NoError(t, d.Done(t.Context()))
		}
	}
	require.Equal(t, map[int]int{2: 2, 3: 1}, seen, "the one in hand comes again after its ack wait")
	stop(t, srv, conn)
}

func TestAStoreThatCannotBeOpenedIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "jetstream"), []byte("not a directory"), 0o600))
	_, err := embedded.Start(dir)
	require.ErrorContains(t, err, "Can't start JetStream")
	require.NoError(t, os.Remove(filepath.Join(dir, "jetstream")))
	srv, conn := start(t, dir, queue.Options{}) // the directory is free again
	stop(t, srv, conn)
}

func TestRemoveLeavesADirectoryInUseAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "submission")
	server, err := embedded.Start(dir)
	require.NoError(t, err)
	var busy *embedded.BusyError
	require.ErrorAs(t, embedded.Remove(dir), &busy)
	require.DirExists(t, dir)
	require.NoError(t, server.Stop())
	require.NoError(t, embedded.Remove(dir))
	require.NoDirExists(t, dir)
}
