package worker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/worker"
)

// These tests have a real queue: a NATS server.

type signerFunc func(ctx context.Context, r sign.Request) (sign.Result, error)

func (f signerFunc) Sign(ctx context.Context, r sign.Request) (sign.Result, error) { return f(ctx, r) }

// signed is the result for an image that was signed.
func signed(r sign.Request) sign.Result {
	return sign.Result{Digest: "sha256:1", Signed: []sign.Signature{{Digest: "sha256:1", Key: "sha256:k", Attachment: "sha256:" + r.Reference}}}
}

func options(name string) worker.Options {
	o := worker.DefaultOptions()
	o.Name, o.EventJobs = name, 0
	o.BackoffMin, o.BackoffMax = 5*time.Millisecond, 20*time.Millisecond
	o.Heartbeat = 200 * time.Millisecond
	o.BreakerFor = 20 * time.Millisecond
	return o
}

// publish puts a batch of n requests into the queue.
func publish(t *testing.T, conn *queue.Conn, batch string, n int) {
	t.Helper()
	p := conn.Publisher(0)
	for i := range n {
		require.NoError(t, p.Publish(t.Context(), queue.Request{
			Batch: batch, Seq: i + 1, Line: queue.Text(fmt.Sprintf("line %d", i+1)), Reference: fmt.Sprintf("r.example/app:%d", i+1),
			SubmittedAt: time.Now().UTC(),
		}.Sealed()))
	}
	require.NoError(t, p.Flush(t.Context()))
}

// running is a worker that serves.
type running struct {
	drain context.CancelFunc // tells it to stop
	ended chan error
}

// start runs a worker, at the longest until the test ends.
func start(t *testing.T, conn *queue.Conn, o worker.Options, s worker.Signer) running {
	t.Helper()
	w, err := worker.New(conn, s, o, zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	r := running{drain: cancel, ended: make(chan error, 1)}
	go func() {
		r.ended <- w.Run(ctx)
		close(r.ended)
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-r.ended)
	})
	return r
}

// awaitOutcomes returns the outcomes of a batch, by their seq, once there are n.
func awaitOutcomes(t *testing.T, conn *queue.Conn, batch string, n int) map[int]queue.Outcome {
	t.Helper()
	enough := errors.New("enough")
	outcomes := make(map[int]queue.Outcome)
	err := conn.Follow(t.Context(), batch, func() error { return nil }, func(o queue.Outcome) error {
		require.NotContains(t, outcomes, o.Seq, "two outcomes of one request")
		if outcomes[o.Seq] = o; len(outcomes) == n {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	return outcomes
}

func TestNeverMoreInWorkThanJobs(t *testing.T) {
	t.Parallel()
	const jobs, images = 4, 60
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
	publish(t, conn, "b", images)
	var inWork, most atomic.Int64
	full := make(chan struct{})
	fullOnce := sync.OnceFunc(func() { close(full) })
	o := options("w1")
	o.Jobs = jobs
	start(t, conn, o, signerFunc(func(ctx context.Context, r sign.Request) (sign.Result, error) {
		n := inWork.Add(1)
		defer inWork.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == jobs {
			fullOnce()
		}
		select {
		case <-full: // all slots were in use once
		case <-ctx.Done():
		}
		return signed(r), nil
	}))
	awaitOutcomes(t, conn, "b", images)
	require.EqualValues(t, jobs, most.Load())
}

func TestDrainGivesBackWhatAnotherWorkerFinishes(t *testing.T) {
	t.Parallel()
	const images = 12
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
	publish(t, conn, "b", images)
	begun := make(chan struct{}, images)
	slow := options("slow")
	slow.Jobs, slow.ShutdownGrace = 3, 10*time.Millisecond
	w := start(t, conn, slow, signerFunc(func(ctx context.Context, _ sign.Request) (sign.Result, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return sign.Result{}, context.Cause(ctx)
	}))
	for range slow.Jobs {
		<-begun
	}
	w.drain()
	require.NoError(t, <-w.ended)
	require.Empty(t, begun, "no new one is begun in a drain")

	start(t, conn, options("quick"), signerFunc(func(_ context.Context, r sign.Request) (sign.Result, error) { return signed(r), nil }))
	for seq, o := range awaitOutcomes(t, conn, "b", images) {
		require.Equal(t, queue.Signed, o.Verdict, seq)
		require.Equal(t, "quick", o.Worker)
		require.Equal(t, 1, o.Attempts, "what a drain cut short was no attempt")
		require.EqualValues(t, fmt.Sprintf("line %d", seq), o.Line)
	}
}

func TestDrainWithinGraceFinishes(t *testing.T) {
	t.Parallel()
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
	publish(t, conn, "b", 1)
	begun, finish := make(chan struct{}), make(chan struct{})
	w := start(t, conn, options("w1"), signerFunc(func(_ context.Context, r sign.Request) (sign.Result, error) {
		close(begun)
		<-finish
		return signed(r), nil
	}))
	<-begun
	w.drain()
	close(finish)
	require.NoError(t, <-w.ended)
	o := awaitOutcomes(t, conn, "b", 1)[1]
	require.Equal(t, queue.Signed, o.Verdict)
}

func TestTwoWorkersOneOutcomeEach(t *testing.T) {
	t.Parallel()
	const images = 200
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
	var tries sync.Map // of each image
	s := signerFunc(func(_ context.Context, r sign.Request) (sign.Result, error) {
		counted, _ := tries.LoadOrStore(r.Reference, new(atomic.Int64))
		n := counted.(*atomic.Int64).Add(1)
		var image int
		_, err := fmt.Sscanf(r.Reference, "r.example/app:%d", &image)
		switch {
		case err != nil:
			return sign.Result{}, err
		case image%7 == 0: // never
			return sign.Result{}, &registry.Error{Status: 500}
		case image%5 == 0 && n < 3: // at the third try
			return sign.Result{}, &registry.Error{Status: 500}
		case image%11 == 0:
			panic("boom")
		}
		return signed(r), nil
	})
	start(t, conn, options("w1"), s)
	start(t, conn, options("w2"), s)
	publish(t, conn, "b", images)
	outcomes := awaitOutcomes(t, conn, "b", images)
	for seq := range images {
		seq++
		o := outcomes[seq]
		switch {
		case seq%7 == 0:
			require.Equal(t, queue.Dead, o.Verdict)
			require.Equal(t, worker.RegistryUnavailable, o.Class)
			require.Equal(t, 4, o.Attempts)
		case seq%11 == 0:
			require.Equal(t, queue.Dead, o.Verdict)
			require.Equal(t, worker.Internal, o.Class)
		default:
			require.Equal(t, queue.Signed, o.Verdict)
		}
		if seq%5 == 0 && o.Verdict == queue.Signed {
			require.Equal(t, 3, o.Attempts)
		}
		if o.Verdict == queue.Dead {
			var letter queue.DeadLetter
			require.Eventually(t, func() (there bool) { // soon after its outcome
				var err error
				letter, err = conn.DeadLetter(t.Context(), "b", o.ID, o.Gen)
				return err == nil
			}, 30*time.Second, 5*time.Millisecond)
			require.Equal(t, o.Class, letter.Class)
			require.EqualValues(t, fmt.Sprintf("line %d", seq), letter.Request.Line)
		}
	}
}

// A worker that dies over a request leaves it to the next one, but not for ever.
func TestPoison(t *testing.T) {
	t.Parallel()
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{AckWait: 500 * time.Millisecond})
	publish(t, conn, "b", 1)
	o := options("w1")
	o.MaxDeaths, o.Heartbeat = 2, 100*time.Millisecond
	var died atomic.Int64
	start(t, conn, o, signerFunc(func(context.Context, sign.Request) (sign.Result, error) {
		died.Add(1)
		runtime.Goexit() // as if the process were gone: nothing is recorded, no sign of life any more
		return sign.Result{}, nil
	}))
	outcome := awaitOutcomes(t, conn, "b", 1)[1]
	require.Equal(t, queue.Dead, outcome.Verdict)
	require.Equal(t, worker.Poison, outcome.Class)
	require.Zero(t, outcome.Attempts)
	require.Positive(t, died.Load())
}

func TestCancelledBatchEnds(t *testing.T) {
	t.Parallel()
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
	publish(t, conn, "b", 20)
	require.NoError(t, conn.Cancel(t.Context(), "b", 0))
	start(t, conn, options("w1"), signerFunc(func(context.Context, sign.Request) (sign.Result, error) {
		return sign.Result{}, errors.New("signed in a cancelled batch")
	}))
	for _, o := range awaitOutcomes(t, conn, "b", 20) {
		require.Equal(t, queue.Cancelled, o.Verdict)
	}
}

// Cancelled while it is being signed, over the real queue.
func TestCancelReachesWhatIsInWork(t *testing.T) {
	t.Parallel()
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
	publish(t, conn, "b", 4)
	begun := make(chan struct{}, 4)
	o := options("w1")
	o.Jobs = 2
	start(t, conn, o, signerFunc(func(ctx context.Context, _ sign.Request) (sign.Result, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return sign.Result{}, context.Cause(ctx)
	}))
	<-begun
	<-begun
	require.NoError(t, conn.Cancel(t.Context(), "b", 0))
	for _, o := range awaitOutcomes(t, conn, "b", 4) {
		require.Equal(t, queue.Cancelled, o.Verdict)
		require.NotNil(t, o.Request)
		require.Equal(t, o.ID, o.Request.ID)
	}
}

func TestPausesOverTheQueue(t *testing.T) {
	t.Parallel()
	for _, target := range []string{queue.LaneBulk, "r.example"} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
			require.NoError(t, conn.Pause(t.Context(), queue.Pause{Target: target, By: "me", At: time.Now()}))
			publish(t, conn, "b", 3)
			var signing atomic.Bool
			o := options("w1")
			o.PauseWait, o.AnnounceEvery = 50*time.Millisecond, 50*time.Millisecond
			start(t, conn, o, signerFunc(func(_ context.Context, r sign.Request) (sign.Result, error) {
				signing.Store(true)
				return signed(r), nil
			}))
			require.Eventually(t, func() bool {
				present, err := conn.Present(t.Context())
				return err == nil && len(present) == 1 && present[0].Worker == "w1"
			}, 30*time.Second, 20*time.Millisecond)
			require.False(t, signing.Load())
			was, err := conn.Resume(t.Context(), target)
			require.NoError(t, err)
			require.True(t, was)
			for _, o := range awaitOutcomes(t, conn, "b", 3) {
				require.Equal(t, queue.Signed, o.Verdict)
				require.Equal(t, 1, o.Attempts)
			}
		})
	}
}

func TestWorkerThatIsGoneIsNotListed(t *testing.T) {
	t.Parallel()
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{})
	w := start(t, conn, options("w1"), nil)
	listed := func() bool {
		present, err := conn.Present(t.Context())
		return err == nil && len(present) == 1
	}
	require.Eventually(t, listed, 30*time.Second, 20*time.Millisecond)
	w.drain()
	require.NoError(t, <-w.ended)
	require.False(t, listed())
}

func TestHeartbeatMustFitTheQueue(t *testing.T) {
	t.Parallel()
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{AckWait: time.Second})
	o := options("w1")
	o.Heartbeat = 501 * time.Millisecond
	_, err := worker.New(conn, nil, o, zap.NewNop())
	require.ErrorContains(t, err, "heartbeat")
	o.Jobs = 0
	_, err = worker.New(conn, nil, o, zap.NewNop())
	require.ErrorContains(t, err, "jobs")
}

// A message that is no request ends, or it would hold a slot for ever.
func TestNonsenseEndsHoweverLongItIs(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"a field that is no text": `{"version":1,"` + strings.Repeat("\xff", 300_000) + `":1}`,
		"a line that grows when it is encoded": `{"version":1,"id":"aa","gen":0,"batch":"b","seq":1,"line":"` + strings.Repeat("<", 200_000) +
			`","reference":"r.example/app:1","timeout":60,"submitted_at":"2026-01-01T00:00:00Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := queuetest.StartServer(t)
			conn := queuetest.Connect(t, server, queue.Options{})
			queuetest.Publish(t, server, "sign.request.bulk.00.b", []byte(body))
			o := options("w1")
			o.Jobs = 1
			start(t, conn, o, signerFunc(func(_ context.Context, r sign.Request) (sign.Result, error) { return signed(r), nil }))
			publish(t, conn, "c", 1)
			require.Eventually(t, func() bool {
				backlog, err := conn.Backlog(t.Context())
				return err == nil && backlog.Bulk == 0
			}, 30*time.Second, 20*time.Millisecond)
		})
	}
}
