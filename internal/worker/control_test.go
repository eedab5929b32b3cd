package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// run runs a worker on lanes that give out jobs as they are sent to it, until
// the returned function is called, which drains it and waits for its end.
func run(t *testing.T, w *Worker, lanes ...lane) (drain func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.run(ctx, lanes) // it ends by the drain
	}()
	return func() {
		cancel()
		<-ended
	}
}

// laneFrom gives out the jobs of a channel, one at a time.
func laneFrom(name string, slots int, jobs <-chan *job) lane {
	return lane{name: name, jobs: slots, next: func(ctx context.Context, _ int) ([]*job, error) {
		select {
		case j := <-jobs:
			return []*job{j}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
}

// numbered are requests for different images of a registry.
func numbered(host string, n int) []queue.Request {
	var requests []queue.Request
	for i := range n {
		r := testRequest()
		r.Reference = host + "/app:" + time.Duration(i).String()
		requests = append(requests, r.Sealed())
	}
	return requests
}

func TestPausedRegistryIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		target    string
		delivered int
		steps     []string
	}{
		"host, first delivery": {"r.example", 1, []string{"read ledger", "ledger", "nak 10s"}},
		"host, redelivery":     {"r.example", 2, []string{"nak 10s"}},
		"lane":                 {queue.LaneBulk, 2, []string{"nak 10s"}},
		"another host":         {"r.example:5000", 1, []string{"outcome signed", "ack"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			b.paused[test.target] = true
			deliver(t, testWorker(b, signsAtOnce), b, testRequest(), test.delivered)
			require.Equal(t, test.steps, b.made())
			require.Zero(t, b.ledger[requestKey(testRequest())].Waited, "it is not the image that waits")
		})
	}
}

func TestCancelledBeforePaused(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.cancelled, b.paused["r.example"] = 1, true
	deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 1)
	require.Equal(t, []string{"outcome cancelled", "ack"}, b.made())
}

func TestPausedLaneIsNotPulled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.paused[queue.LaneBulk] = true
		var pulled atomic.Int64
		jobs := make(chan *job, 1)
		from := laneFrom(queue.LaneBulk, 1, jobs)
		next := from.next
		from.next = func(ctx context.Context, free int) ([]*job, error) {
			pulled.Add(1)
			return next(ctx, free)
		}
		jobs <- jobOf(testRequest(), 1, &parcel{book: b})
		drain := run(t, testWorker(b, signsAtOnce), from)
		time.Sleep(time.Minute)
		require.Zero(t, pulled.Load())
		b.mu.Lock()
		delete(b.paused, queue.LaneBulk)
		b.mu.Unlock()
		time.Sleep(2 * answerAge)
		require.NotZero(t, pulled.Load())
		drain()
		require.Contains(t, b.outcomes, requestKey(testRequest()))
	})
}

func TestDrainOfAPausedLaneEndsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.paused[queue.LaneBulk] = true
		drain := run(t, testWorker(b, signsAtOnce), laneFrom(queue.LaneBulk, 1, nil))
		time.Sleep(time.Minute)
		began := time.Now()
		drain()
		require.Zero(t, time.Since(began))
	})
}

// What is being signed of a batch that is cancelled ends soon, and says what
// was signed until then.
func TestCancelledInTheMiddle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		var ended time.Time
		w := testWorker(b, func(ctx context.Context, _ sign.Request) (sign.Result, error) {
			<-ctx.Done()
			ended = time.Now()
			return oneSigned, errors.New("cut")
		})
		jobs := make(chan *job, 1)
		jobs <- jobOf(testRequest(), 1, &parcel{book: b})
		drain := run(t, w, laneFrom(queue.LaneBulk, 1, jobs))
		time.Sleep(20*time.Second + 300*time.Millisecond)
		b.mu.Lock()
		b.cancelled = 1
		b.mu.Unlock()
		cancelled := time.Now()
		time.Sleep(5 * time.Second)
		drain()
		require.LessOrEqual(t, ended.Sub(cancelled), 2*time.Second)
		o := b.outcomes[requestKey(testRequest())]
		require.Equal(t, queue.Cancelled, o.Verdict)
		require.Len(t, o.Digests, 1)
		require.Equal(t, testRequest(), *o.Request)
		require.Zero(t, o.Attempts)
		require.Empty(t, b.letters)
	})
}

func TestRetryOfACancelledBatchIsNotAborted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.cancelled = 1
		r := testRequest()
		r.Gen = 1
		jobs := make(chan *job, 1)
		jobs <- jobOf(r, 1, &parcel{book: b})
		drain := run(t, testWorker(b, func(context.Context, sign.Request) (sign.Result, error) {
			time.Sleep(10 * time.Second)
			return oneSigned, nil
		}), laneFrom(queue.LaneBulk, 1, jobs))
		time.Sleep(time.Minute)
		drain()
		require.Equal(t, queue.Signed, b.outcomes[requestKey(r)].Verdict)
	})
}

// The queue may forget that a worker has a request, and give it to the same
// worker again: it is not signed twice at once, and nobody died.
func TestRequestThatIsInHandAlready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		w := testWorker(b, func(context.Context, sign.Request) (sign.Result, error) {
			time.Sleep(time.Minute)
			return oneSigned, nil
		})
		var both sync.WaitGroup
		for delivered := range 2 {
			both.Go(func() { deliver(t, w, b, testRequest(), delivered+1) })
			time.Sleep(time.Second)
		}
		both.Wait()
		require.Equal(t, []string{"nak 10s", "outcome signed", "ack"}, b.made())
	})
}

func TestPresence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		w := testWorker(b, func(ctx context.Context, _ sign.Request) (sign.Result, error) {
			<-ctx.Done()
			return sign.Result{}, errors.New("cut")
		})
		w.options.Program, w.options.ShutdownGrace = "1.2.3", 20*time.Second
		jobs := make(chan *job, 1)
		jobs <- jobOf(testRequest(), 1, &parcel{book: b})
		began := time.Now().UTC()
		drain := run(t, w, laneFrom(queue.LaneBulk, 4, jobs))
		time.Sleep(7 * time.Second)
		present := func() queue.Presence {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.present["w1"]
		}
		p := present()
		require.Equal(t, "1.2.3", p.Program)
		require.Equal(t, 1, p.InWork)
		require.Equal(t, w.options.Jobs, p.Jobs)
		require.Equal(t, began, p.StartedAt)
		require.False(t, p.Draining)
		var ended sync.WaitGroup
		ended.Go(drain)
		time.Sleep(time.Second)
		require.True(t, present().Draining, "at once")
		ended.Wait()
		require.Empty(t, b.present)
	})
}

// A queue that takes no announcement does not keep a worker from signing, and
// is complained of once.
func TestPresenceThatIsNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.before = onStep("announce", unanswered)
		core, seen := observer.New(zap.InfoLevel)
		o := DefaultOptions()
		o.Name = "w1"
		w := newWorker(b, signerFunc(signsAtOnce), o, zap.New(core))
		jobs := make(chan *job, 1)
		jobs <- jobOf(testRequest(), 1, &parcel{book: b})
		drain := run(t, w, laneFrom(queue.LaneBulk, 1, jobs))
		time.Sleep(10 * time.Minute)
		drain()
		require.Contains(t, b.outcomes, requestKey(testRequest()))
		require.Equal(t, 1, seen.FilterMessageSnippet("cannot announce").Len())
	})
}
