package worker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// onStep returns a hook that answers a step, known by how it begins.
func onStep(prefix string, answer func(ctx context.Context) error) func(context.Context, string) error {
	return func(ctx context.Context, step string) error {
		if strings.HasPrefix(step, prefix) {
			return answer(ctx)
		}
		return nil
	}
}

func unanswered(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func signsAtOnce(context.Context, sign.Request) (sign.Result, error) { return oneSigned, nil }

func failsAtOnce(context.Context, sign.Request) (sign.Result, error) {
	return sign.Result{}, answered(500, 0)
}

func TestFullOutcomeStreamIsWaitedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		full := time.Now().Add(time.Hour)
		b.before = onStep("outcome", func(context.Context) error {
			if time.Now().Before(full) {
				return queue.ErrFull
			}
			return nil
		})
		p := deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 1)
		require.Equal(t, []string{"outcome signed", "ack"}, b.made())
		require.Greater(t, p.beaten(), 300, "the request stays with the worker")
	})
}

func TestFullOutcomeStreamWhenDrained(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"outcome", "dead letter"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBook()
				b.before = onStep(step, func(context.Context) error { return queue.ErrFull })
				w := testWorker(b, failsAtOnce)
				w.options.Attempts = 1
				work, abort := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Hour, func() { abort(errDrained) })
				p := &parcel{book: b}
				w.handle(work, t.Context(), jobOf(testRequest(), 1, p))
				made := b.made()
				require.Equal(t, []string{"ledger", "nak 0s"}, made[len(made)-2:])
				require.False(t, p.acked)
				require.Empty(t, b.letters)
			})
		})
	}
}

// What a drain kept from being recorded ends at the next delivery: the last
// attempt is not made twice.
func TestLastAttemptThatWasNotRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.before = onStep("outcome", func(context.Context) error { return queue.ErrFull })
		tries := 0
		w := testWorker(b, func(context.Context, sign.Request) (sign.Result, error) {
			tries++
			return sign.Result{}, answered(500, 0)
		})
		w.options.Attempts = 1
		work, abort := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { abort(errDrained) })
		w.handle(work, t.Context(), jobOf(testRequest(), 1, &parcel{book: b}))
		b.before = nil
		deliver(t, w, b, testRequest(), 2)
		require.Equal(t, 1, tries)
		o := b.outcomes[requestKey(testRequest())]
		require.Equal(t, queue.Dead, o.Verdict)
		require.Equal(t, RegistryUnavailable, o.Class)
		require.Equal(t, 1, o.Attempts)
		require.Contains(t, b.letters, requestKey(testRequest()))
	})
}

// Nor is it an attempt in vain that a success could not be recorded.
func TestSuccessThatWasNotRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.before = onStep("outcome", func(context.Context) error { return queue.ErrFull })
		w := testWorker(b, signsAtOnce)
		w.options.Attempts = 1
		work, abort := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { abort(errDrained) })
		w.handle(work, t.Context(), jobOf(testRequest(), 1, &parcel{book: b}))
		b.before = nil
		deliver(t, w, b, testRequest(), 2)
		require.Equal(t, queue.Signed, b.outcomes[requestKey(testRequest())].Verdict)
		require.Equal(t, 1, b.outcomes[requestKey(testRequest())].Attempts)
	})
}

// What the server forgot after a crash, and takes for a first delivery.
func TestAttemptsOfAForgottenDeliveryCount(t *testing.T) {
	t.Parallel()
	b := newBook()
	w := testWorker(b, failsAtOnce)
	b.ledger[requestKey(testRequest())] = queue.Entry{Attempts: 3, Deaths: 1}
	deliver(t, w, b, testRequest(), 1)
	o := b.outcomes[requestKey(testRequest())]
	require.Equal(t, queue.Dead, o.Verdict)
	require.Equal(t, 4, o.Attempts)
	require.Empty(t, b.ledger)
}

func TestCancelledOutcomeTooLargeGoesWithoutItsRequest(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.cancelled = 1
	tries := 0
	b.before = onStep("outcome", func(context.Context) error {
		if tries++; tries == 1 {
			return queue.ErrTooLarge
		}
		return nil
	})
	deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 1)
	require.Equal(t, []string{"outcome cancelled", "ack"}, b.made())
	require.Nil(t, b.outcomes[requestKey(testRequest())].Request)
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"ack", "nak"} {
		t.Run("stops before "+step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBook()
				p := &parcel{book: b, deaf: true}
				asked := false
				b.before = onStep(step, func(context.Context) error {
					asked = true
					require.Equal(t, 3, p.beaten())
					time.Sleep(time.Hour)
					require.Equal(t, 3, p.beaten())
					return nil
				})
				w := testWorker(b, func(ctx context.Context, r sign.Request) (sign.Result, error) {
					time.Sleep(35 * time.Second)
					if step == "ack" {
						return signsAtOnce(ctx, r)
					}
					return failsAtOnce(ctx, r)
				})
				w.handle(t.Context(), t.Context(), jobOf(testRequest(), 1, p))
				require.True(t, asked)
			})
		})
	}
}

// A question to the queue that is lost with its connection must not keep a
// slot for ever.
func TestQuestionsWithoutAnswer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		step      string
		delivered int
		steps     []string
	}{
		{"read ledger", 2, []string{"nak 1s"}},
		{"read outcome", 2, []string{"read ledger", "ledger: in flight", "outcome signed", "ack", "clear ledger"}},
		{"ledger: in flight", 2, []string{"read ledger", "read outcome", "ledger", "nak 1s"}},
		{"ask cancelled", 1, []string{"outcome signed", "ack"}},
		{"ask paused", 1, []string{"outcome signed", "ack"}},
		{"ack", 1, []string{"outcome signed"}},
		{"clear ledger", 2, []string{"read ledger", "read outcome", "ledger: in flight", "outcome signed", "ack"}},
	}
	for _, test := range tests {
		t.Run(test.step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBook()
				b.before = onStep(test.step, unanswered)
				began := time.Now()
				deliver(t, testWorker(b, signsAtOnce), b, testRequest(), test.delivered)
				require.Equal(t, test.steps, b.made())
				require.LessOrEqual(t, time.Since(began), 3*callPatience)
			})
		})
	}
	t.Run("ledger, nak", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBook()
			b.before = func(ctx context.Context, _ string) error { return unanswered(ctx) }
			began := time.Now()
			deliver(t, testWorker(b, failsAtOnce), b, testRequest(), 1)
			require.Empty(t, b.made())
			require.LessOrEqual(t, time.Since(began), ledgerPatience+6*callPatience)
		})
	})
}

func TestLedgerIsWrittenAfterAnInterruption(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		tries := 0
		b.before = onStep("ledger", func(context.Context) error {
			if tries++; tries < 4 {
				return errors.New("no leader")
			}
			return nil
		})
		deliver(t, testWorker(b, failsAtOnce), b, testRequest(), 1)
		require.Equal(t, []string{"read ledger", "ledger", "nak 1s"}, b.made())
	})
}

func TestWorkerDeathsAreNotCountedForWhatWasGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		w := testWorker(b, failsAtOnce)
		w.options.Attempts = 100
		for delivered := 1; delivered <= 20; delivered++ {
			deliver(t, w, b, testRequest(), delivered)
		}
		require.Zero(t, b.ledger[requestKey(testRequest())].Deaths)
	})
}
