package submit_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
	"github.com/signfleet/signfleet/internal/submit"
)

// newQueue is a queue of the test's own: a NATS server with two partitions.
func newQueue(t *testing.T) *queue.Conn {
	t.Helper()
	return queuetest.Connect(t, queuetest.StartServer(t), queue.Options{Partitions: 2, AckWait: 30 * time.Second})
}

// writeList writes an image list, with these very lines.
func writeList(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.txt")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	return path
}

func optionsFor(file string) submit.Options {
	return submit.Options{File: file, Timeout: time.Minute, Platforms: []string{"linux/amd64"}}
}

func open(t *testing.T, conn *queue.Conn, o submit.Options) *submit.Submission {
	t.Helper()
	s, err := submit.Open(t.Context(), conn, o)
	require.NoError(t, err)
	return s
}

// stub is a worker that signs nothing and records what it is told to.
type stub struct {
	conn   *queue.Conn
	end    func(queue.Request) queue.Outcome // verdict, class, error and attempts are used
	cancel context.CancelFunc
	ended  chan struct{}

	mu        sync.Mutex
	delivered map[int]int // by seq
	err       error
}

// serve starts a stub, at the longest until the test ends.
func serve(t *testing.T, conn *queue.Conn, end func(queue.Request) queue.Outcome) *stub {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &stub{conn: conn, end: end, cancel: cancel, ended: make(chan struct{}), delivered: make(map[int]int)}
	go w.run(ctx)
	t.Cleanup(func() { w.stop(t) })
	return w
}

// stop returns how often each request was delivered.
func (w *stub) stop(t *testing.T) map[int]int {
	t.Helper()
	w.cancel()
	<-w.ended
	require.NoError(t, w.err)
	return w.delivered
}

func (w *stub) run(ctx context.Context) {
	defer close(w.ended)
	for lane := w.conn.BulkLane(); ; {
		deliveries, err := lane.Next(ctx, 8)
		for _, d := range deliveries {
			if err := w.settle(context.WithoutCancel(ctx), d); err != nil {
				w.err = err
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *stub) settle(ctx context.Context, d *queue.Delivery) error {
	r := d.Request
	w.mu.Lock()
	w.delivered[r.Seq]++
	w.mu.Unlock()
	o := outcomeOf(r, queue.Signed)
	if w.end != nil {
		told := w.end(r)
		o.Verdict, o.Class, o.Error, o.Attempts = told.Verdict, told.Class, told.Error, told.Attempts
	}
	if _, err := w.conn.Record(ctx, o); err != nil {
		return err
	}
	return d.Done(ctx)
}

func outcomeOf(r queue.Request, verdict queue.Verdict) queue.Outcome {
	return queue.Outcome{ID: r.ID, Gen: r.Gen, Batch: r.Batch, Seq: r.Seq, Line: r.Line, Reference: r.Reference, Verdict: verdict, Worker: "stub"}
}

// endsBad ends as a worker would what cannot be read, and signs the rest.
func endsBad(r queue.Request) queue.Outcome {
	if r.Reference == "" {
		return queue.Outcome{Verdict: queue.Dead, Class: "invalid-request", Error: r.Problem}
	}
	return queue.Outcome{Verdict: queue.Signed}
}

// fuse is a context that is cancelled when it is asked for the nth time
// whether it is.
type fuse struct {
	context.Context
	left *atomic.Int64
	burn context.CancelFunc
}

func newFuse(ctx context.Context, n int64) fuse {
	ctx, cancel := context.WithCancel(ctx)
	f := fuse{Context: ctx, left: new(atomic.Int64), burn: cancel}
	f.left.Store(n)
	return f
}

func (f fuse) Err() error {
	if f.left.Add(-1) == 0 {
		f.burn()
	}
	return f.Context.Err()
}
