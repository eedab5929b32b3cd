package submit_test

import (
	"context"
	"errors"
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

// testOptions lay out the queues of these tests.
var testOptions = queue.Options{Partitions: 2, AckWait: 30 * time.Second}

// newQueue is a queue of the test's own: a NATS server with two partitions.
func newQueue(t *testing.T) *queue.Conn {
	t.Helper()
	return newService(t).conn
}

// service is a NATS server of the test's own, to which something is done.
type service struct {
	conn    *queue.Conn
	connect func() *queue.Conn                // another connection to it
	store   func(subject string, data []byte) // as somebody who is no client
	restart func()                            // with its store, on its port
	stop    func() (again func())
}

func newService(t *testing.T) *service {
	t.Helper()
	server := queuetest.StartServer(t)
	s := &service{
		connect: func() *queue.Conn { return queuetest.Connect(t, server, testOptions) },
		store:   func(subject string, data []byte) { queuetest.Publish(t, server, subject, data) },
		stop: func() func() {
			again := queuetest.Stop(t, server)
			return func() { server = again() }
		},
	}
	s.restart = func() { s.stop()() }
	s.conn = s.connect()
	return s
}

// find finds a batch from a connection of its own.
func (s *service) find(t *testing.T, id string) *submit.Batch {
	t.Helper()
	b, err := submit.Find(t.Context(), s.connect(), id)
	require.NoError(t, err)
	b.CheckEvery = 50 * time.Millisecond
	return b
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
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// reporter is a submission or a batch.
type reporter interface {
	Report(ctx context.Context) (*submit.Report, error)
}

func reportOf(t *testing.T, of reporter) *submit.Report {
	t.Helper()
	r, err := of.Report(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func failuresOf(t *testing.T, r *submit.Report) []submit.Failure {
	t.Helper()
	var all []submit.Failure
	for f, err := range r.Failures() {
		require.NoError(t, err)
		all = append(all, f)
	}
	return all
}

func linesOf(t *testing.T, r *submit.Report) []queue.Text {
	t.Helper()
	var all []queue.Text
	for _, f := range failuresOf(t, r) {
		all = append(all, f.Line)
	}
	return all
}

// stub is a worker that signs nothing and records what it is told to.
type stub struct {
	conn   *queue.Conn
	lane   func() *queue.Lane
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
	return serveLane(t, conn, conn.BulkLane, end)
}

func serveLane(t *testing.T, conn *queue.Conn, lane func() *queue.Lane, end func(queue.Request) queue.Outcome) *stub {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &stub{conn: conn, lane: lane, end: end, cancel: cancel, ended: make(chan struct{}), delivered: make(map[int]int)}
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
	for lane := w.lane(); ; {
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

// settle ends a delivery as a worker does: outcome, dead letter, acknowledgement.
func (w *stub) settle(ctx context.Context, d *queue.Delivery) error {
	r := d.Request
	w.mu.Lock()
	w.delivered[r.Seq]++
	w.mu.Unlock()
	o := outcomeOf(r, queue.Signed)
	if w.end != nil {
		told := w.end(r)
		o.Verdict, o.Class, o.Error, o.Attempts = told.Verdict, told.Class, told.Error, told.Attempts
		o.Digest, o.Digests = told.Digest, told.Digests
	}
	if o.Verdict == queue.Cancelled {
		o.Request = &r
	}
	o, err := w.conn.Record(ctx, o)
	if errors.Is(err, queue.ErrUnreadable) {
		return d.Done(ctx) // there is one, whatever it says
	}
	if err != nil {
		return err
	}
	if o.Verdict == queue.Dead {
		letter := queue.DeadLetter{Request: r, Class: o.Class, Error: o.Error, Attempts: o.Attempts, Worker: o.Worker}
		if err := w.conn.Bury(ctx, letter); err != nil {
			return err
		}
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

// ends is how requests end, by their generation: the last one also those of later.
func ends(outcomes ...queue.Outcome) func(queue.Request) queue.Outcome {
	return func(r queue.Request) queue.Outcome { return outcomes[min(r.Gen, len(outcomes)-1)] }
}

// Ways to end.
var (
	signs    = queue.Outcome{Verdict: queue.Signed, Attempts: 1}
	timesOut = queue.Outcome{Verdict: queue.Dead, Class: "timeout", Error: "too slow", Attempts: 4}
	isDenied = queue.Outcome{Verdict: queue.Dead, Class: "denied", Error: "403", Attempts: 1}
)

// submitted is a batch of n images all of whose requests have ended, and left
// the queue: that comes a moment after the outcome.
func submitted(t *testing.T, s *service, batch string, n int) submit.Options {
	t.Helper()
	o := optionsFor(writeList(t, manyLines(n)...))
	o.Batch = batch
	require.NoError(t, open(t, s.conn, o).Run(t.Context()))
	require.Eventually(t, func() bool {
		waiting, err := s.conn.Waiting(t.Context(), batch)
		return err == nil && waiting == 0
	}, time.Minute, 5*time.Millisecond)
	return o
}
