package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
)

// stage is what a signer of the table can set off.
type stage struct {
	drain func() // the worker was told to stop, and the grace period is over
}

// Results and failures of signing.
var (
	oneSigned  = sign.Result{Digest: "sha256:1", Signed: []sign.Signature{{Digest: "sha256:1", Key: "sha256:k", Attachment: "sha256:a"}}}
	oneAlready = sign.Result{Digest: "sha256:1", Signed: []sign.Signature{{Digest: "sha256:1", Key: "sha256:k", Attachment: "sha256:a", Already: true}}}
)

func returns(r sign.Result, err error) func(context.Context, stage) (sign.Result, error) {
	return func(context.Context, stage) (sign.Result, error) { return r, err }
}

func answered(status int, retryAfter time.Duration) error {
	return &registry.Error{Op: "get manifest", Method: "GET", Status: status, RetryAfter: retryAfter}
}

// TestDelivery is the delivery table of the design, and what follows from it,
// with the order of the records. Each row is one delivery.
func TestDelivery(t *testing.T) {
	t.Parallel()
	redelivery := func(steps ...string) []string {
		return append([]string{"read ledger"}, steps...)
	}
	tests := []struct {
		name string
		// what the worker meets
		delivered int // default 1
		entry     *queue.Entry
		stored    *queue.Outcome
		cancelled bool
		request   func(*queue.Request)
		err       error // of the message
		age       time.Duration
		stopped   bool // told to stop before it began
		sign      func(context.Context, stage) (sign.Result, error)
		// what it does
		steps   []string
		verdict queue.Verdict
		class   string
		left    *queue.Entry // on the ledger, as far as it is set
		check   func(*testing.T, queue.Outcome)
	}{
		{
			name: "signed", sign: returns(oneSigned, nil),
			steps: []string{"sign", "outcome signed", "ack"}, verdict: queue.Signed,
			check: func(t *testing.T, o queue.Outcome) {
				require.Equal(t, "sha256:1", o.Digest)
				require.Equal(t, []queue.SignedDigest{{Digest: "sha256:1", Key: "sha256:k", Attachment: "sha256:a"}}, o.Digests)
				require.Equal(t, 1, o.Attempts)
				require.Equal(t, "w1", o.Worker)
				require.Equal(t, 7, o.Seq)
				require.EqualValues(t, "r.example/app:1 # mine", o.Line)
			},
		},
		{
			name: "already signed", sign: returns(oneAlready, nil),
			steps: []string{"sign", "outcome already-signed", "ack"}, verdict: queue.AlreadySigned,
		},
		{
			name:  "one of two already signed",
			sign:  returns(sign.Result{Signed: append([]sign.Signature{oneAlready.Signed[0]}, oneSigned.Signed...)}, nil),
			steps: []string{"sign", "outcome signed", "ack"}, verdict: queue.Signed,
		},
		{
			name: "nothing to sign", sign: returns(sign.Result{Digest: "sha256:1", Skipped: "no platform matches"}, nil),
			steps: []string{"sign", "outcome skipped", "ack"}, verdict: queue.Skipped,
			check: func(t *testing.T, o queue.Outcome) { require.Equal(t, "no platform matches", o.Error) },
		},
		{
			name: "batch cancelled", cancelled: true,
			steps: []string{"outcome cancelled", "ack"}, verdict: queue.Cancelled,
		},
		{
			name: "permanent failure", sign: returns(sign.Result{}, answered(404, 0)),
			steps: []string{"sign", "outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: NotFound,
			check: func(t *testing.T, o queue.Outcome) { require.Equal(t, 1, o.Attempts) },
		},
		{
			name: "failure after a part was signed", sign: returns(oneSigned, answered(403, 0)),
			steps: []string{"sign", "outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: Denied,
			check: func(t *testing.T, o queue.Outcome) {
				require.Equal(t, "sha256:1", o.Digest)
				require.Len(t, o.Digests, 1)
			},
		},
		{
			name: "transient failure, first attempt", sign: returns(sign.Result{}, answered(500, 0)),
			steps: []string{"sign", "read ledger", "ledger", "nak 1s"},
			left:  &queue.Entry{Attempts: 1, Class: RegistryUnavailable},
		},
		{
			name: "transient failure, third attempt", delivered: 3, entry: &queue.Entry{Attempts: 2}, sign: returns(sign.Result{}, answered(500, 0)),
			steps: redelivery("read outcome", "ledger: in flight", "sign", "ledger", "nak 4s"),
			left:  &queue.Entry{Attempts: 3, Class: RegistryUnavailable},
		},
		{
			name: "transient failure, the registry asks for more time", sign: returns(sign.Result{}, answered(503, 30*time.Second)),
			steps: []string{"sign", "read ledger", "ledger", "nak 33s"},
			left:  &queue.Entry{Attempts: 1, Class: RegistryUnavailable},
		},
		{
			name: "transient failure, the registry asks for more time than there is", sign: returns(sign.Result{}, answered(503, 25*time.Hour)),
			steps: []string{"sign", "read ledger", "outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: RegistryUnavailable,
		},
		{
			name: "transient failure, last attempt", delivered: 4, entry: &queue.Entry{Attempts: 3}, sign: returns(oneSigned, answered(500, 0)),
			steps:   redelivery("read outcome", "ledger: in flight", "sign", "outcome dead", "dead letter", "ack", "clear ledger"),
			verdict: queue.Dead, class: RegistryUnavailable,
			check: func(t *testing.T, o queue.Outcome) {
				require.Equal(t, 4, o.Attempts)
				require.Len(t, o.Digests, 1, "what the last attempt signed")
			},
		},
		{
			name: "timeout of the image",
			sign: func(ctx context.Context, _ stage) (sign.Result, error) {
				<-ctx.Done()
				return sign.Result{}, errors.New("aborted")
			},
			steps: []string{"sign", "read ledger", "ledger", "nak 1s"},
			left:  &queue.Entry{Attempts: 1, Class: Timeout},
		},
		{
			name: "429 is not an attempt", sign: returns(sign.Result{}, answered(429, 5*time.Second)),
			steps: []string{"sign", "read ledger", "ledger", "nak 5.5s"},
			left:  &queue.Entry{Class: RateLimited, Waited: queue.Seconds(5500 * time.Millisecond)},
		},
		{
			name: "a host that is left alone is not an attempt", sign: returns(sign.Result{}, &registry.ThrottledError{Host: "r.example", For: 30 * time.Second}),
			steps: []string{"sign", "read ledger", "ledger", "nak 33s"},
			left:  &queue.Entry{Class: RateLimited, Waited: queue.Seconds(33 * time.Second)},
		},
		{
			name: "429 without a time, again and again", delivered: 40, entry: &queue.Entry{Waited: queue.Seconds(time.Minute)}, sign: returns(sign.Result{}, answered(429, 0)),
			steps: redelivery("read outcome", "ledger: in flight", "sign", "ledger", "nak 1m0s"),
			left:  &queue.Entry{Class: RateLimited, Waited: queue.Seconds(2 * time.Minute)},
		},
		{
			name: "429 for longer than may be waited", delivered: 9, entry: &queue.Entry{Waited: queue.Seconds(time.Hour - time.Second)}, sign: returns(sign.Result{}, answered(429, time.Second)),
			steps:   redelivery("read outcome", "ledger: in flight", "sign", "outcome dead", "dead letter", "ack", "clear ledger"),
			verdict: queue.Dead, class: RateLimited,
			check: func(t *testing.T, o queue.Outcome) { require.Zero(t, o.Attempts) },
		},
		{
			name: "waited too long for a lock", sign: waitsFor(deadline.Lock),
			steps: []string{"sign", "outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: Conflict,
			check: func(t *testing.T, o queue.Outcome) {
				require.Zero(t, o.Attempts)
				require.Equal(t, time.Hour, o.FinishedAt.Sub(o.StartedAt))
			},
		},
		{
			name: "waited too long, most of it before", delivered: 2, entry: &queue.Entry{Waited: queue.Seconds(59 * time.Minute)}, sign: waitsFor(deadline.Rate),
			steps:   redelivery("read outcome", "ledger: in flight", "sign", "outcome dead", "dead letter", "ack", "clear ledger"),
			verdict: queue.Dead, class: RateLimited,
			check: func(t *testing.T, o queue.Outcome) { require.Equal(t, time.Minute, o.FinishedAt.Sub(o.StartedAt)) },
		},
		{
			name: "waited too long for a breaker", sign: waitsFor(deadline.Breaker),
			steps: []string{"sign", "outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: RegistryUnavailable,
		},
		{
			name: "waiting is remembered and does not count as work",
			sign: func(ctx context.Context, _ stage) (sign.Result, error) {
				resume := deadline.Pause(ctx, deadline.Lock)
				time.Sleep(10 * time.Minute)
				resume()
				return sign.Result{}, answered(500, 0)
			},
			steps: []string{"sign", "read ledger", "ledger", "nak 1s"},
			left:  &queue.Entry{Attempts: 1, Class: RegistryUnavailable, Waited: queue.Seconds(10 * time.Minute)},
		},
		{
			name: "drained in the middle", delivered: 2, entry: &queue.Entry{Attempts: 1},
			sign: func(ctx context.Context, s stage) (sign.Result, error) {
				s.drain()
				<-ctx.Done()
				return sign.Result{}, answered(0, 0)
			},
			steps: redelivery("read outcome", "ledger: in flight", "sign", "ledger", "nak 0s"),
			left:  &queue.Entry{Attempts: 1},
		},
		{
			name: "told to stop before it began", stopped: true,
			steps: []string{"read ledger", "ledger", "nak 0s"}, left: &queue.Entry{},
		},
		{
			name: "the last worker died at its first delivery", delivered: 2, sign: returns(sign.Result{}, answered(500, 0)),
			steps: redelivery("read outcome", "ledger: in flight", "sign", "ledger", "nak 1s"),
			left:  &queue.Entry{Attempts: 1, Deaths: 1, Class: RegistryUnavailable},
		},
		{
			name: "the last worker died at a later one", delivered: 5, entry: &queue.Entry{Attempts: 1, Deaths: 2, InFlight: true}, sign: returns(sign.Result{}, answered(500, 0)),
			steps: redelivery("read outcome", "ledger: in flight", "sign", "ledger", "nak 2s"),
			left:  &queue.Entry{Attempts: 2, Deaths: 3, Class: RegistryUnavailable},
		},
		{
			name: "five deaths are borne", delivered: 6, entry: &queue.Entry{Deaths: 4, InFlight: true}, sign: returns(oneSigned, nil),
			steps: redelivery("read outcome", "ledger: in flight", "sign", "outcome signed", "ack", "clear ledger"), verdict: queue.Signed,
		},
		{
			name: "poison", delivered: 7, entry: &queue.Entry{Deaths: 5, InFlight: true},
			steps: redelivery("outcome dead", "dead letter", "ack", "clear ledger"), verdict: queue.Dead, class: Poison,
		},
		{
			name: "a later version, for a newer worker", err: &queue.VersionError{Version: 2}, age: 59 * time.Minute, delivered: 2,
			steps: []string{"nak 1m0s"},
		},
		{
			name: "a later version that nobody takes", err: &queue.VersionError{Version: 2}, age: time.Hour,
			steps: []string{"outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: InvalidRequest,
		},
		{
			name: "forged", err: queue.ErrForged,
			steps: []string{"outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: InvalidRequest,
		},
		{
			name: "not to be decoded", err: errors.New("decode message: unknown field"), delivered: 2,
			steps: []string{"outcome dead", "dead letter", "ack", "clear ledger"}, verdict: queue.Dead, class: InvalidRequest,
			check: func(t *testing.T, o queue.Outcome) { require.Equal(t, "decode message: unknown field", o.Error) },
		},
		{
			name:    "a line that could not be read",
			request: func(r *queue.Request) { r.Reference, r.Problem = "", "no image reference" },
			steps:   []string{"outcome dead", "dead letter", "ack"}, verdict: queue.Dead, class: InvalidRequest,
			check: func(t *testing.T, o queue.Outcome) { require.Equal(t, "no image reference", o.Error) },
		},
		{
			name: "ended by a worker that died before its acknowledgement", delivered: 2,
			stored: &queue.Outcome{Verdict: queue.Signed},
			steps:  redelivery("read outcome", "ack", "clear ledger"), verdict: queue.Signed,
		},
		{
			name: "ended by a worker that died before its dead letter", delivered: 2,
			stored: &queue.Outcome{Verdict: queue.Dead, Class: Denied, Error: "no"},
			steps:  redelivery("read outcome", "dead letter", "ack", "clear ledger"), verdict: queue.Dead, class: Denied,
		},
		{
			name: "ended by another worker in the meantime", sign: returns(oneSigned, nil),
			stored: &queue.Outcome{Verdict: queue.Dead, Class: Timeout, Error: "slow"},
			steps:  []string{"sign", "outcome signed", "dead letter", "ack"}, verdict: queue.Dead, class: Timeout,
		},
		{
			name:  "a panic is a failed attempt",
			sign:  func(context.Context, stage) (sign.Result, error) { panic("boom") },
			steps: []string{"sign", "read ledger", "ledger", "nak 1s"},
			left:  &queue.Entry{Attempts: 1, Class: Internal},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				request := testRequest()
				if test.request != nil {
					test.request(&request)
				}
				b := newBook()
				if test.cancelled {
					b.cancelled = 1
				}
				if test.entry != nil {
					b.ledger[requestKey(request)] = *test.entry
				}
				if test.stored != nil {
					o := *test.stored
					o.ID, o.Batch, o.Seq = request.ID, request.Batch, request.Seq
					b.outcomes[requestKey(request)] = o
				}
				work, abort := context.WithCancelCause(t.Context())
				defer abort(nil)
				fetch, stop := context.WithCancel(t.Context())
				defer stop()
				if test.stopped {
					stop()
				}
				w := testWorker(b, func(ctx context.Context, r sign.Request) (sign.Result, error) {
					require.Equal(t, "r.example/app:1", r.Reference)
					require.NoError(t, b.do(ctx, "sign", func() error { return nil }))
					return test.sign(ctx, stage{drain: func() { stop(); abort(errDrained) }})
				})
				p := &parcel{book: b}
				j := jobOf(request, max(test.delivered, 1), p)
				j.err, j.storedAt = test.err, time.Now().Add(-test.age)

				w.handle(work, fetch, j)

				require.Equal(t, test.steps, b.made())
				require.Equal(t, test.verdict != "", p.acked)
				outcome, ended := b.outcomes[requestKey(request)]
				require.Equal(t, test.verdict != "", ended)
				require.Equal(t, test.verdict, outcome.Verdict)
				require.Equal(t, test.class, outcome.Class)
				if test.check != nil {
					test.check(t, outcome)
				}
				letter, dead := b.letters[requestKey(request)]
				require.Equal(t, test.verdict == queue.Dead, dead)
				if dead {
					require.Equal(t, request, letter.Request)
					require.Equal(t, outcome.Class, letter.Class)
					require.Equal(t, outcome.Error, letter.Error)
					require.NotEmpty(t, letter.Error)
				}
				entry, left := b.ledger[requestKey(request)]
				require.Equal(t, test.left != nil, left)
				if left {
					require.False(t, entry.InFlight)
					require.Equal(t, *test.left, queue.Entry{Attempts: entry.Attempts, Deaths: entry.Deaths, Waited: entry.Waited, Class: entry.Class})
				}
			})
		})
	}
}

// waitsFor is a signer whose turn never comes.
func waitsFor(turn deadline.Turn) func(context.Context, stage) (sign.Result, error) {
	return func(ctx context.Context, _ stage) (sign.Result, error) {
		defer deadline.Pause(ctx, turn)()
		<-ctx.Done()
		return sign.Result{}, ctx.Err()
	}
}

func TestPauseAfter(t *testing.T) {
	t.Parallel()
	w := testWorker(newBook(), nil)
	for _, shortest := range []time.Duration{time.Millisecond, time.Second, time.Minute} {
		w.options.BackoffMin = shortest
		for n := range 200 {
			want := w.options.BackoffMax
			if n < 20 {
				want = min(w.options.BackoffMax, shortest<<max(n-1, 0))
			}
			for _, random := range []float64{0, 0.5, 1} {
				w.random = func() float64 { return random }
				got := w.pauseAfter(n, 0)
				require.InDelta(t, float64(want)*(0.8+0.4*random), float64(got), 2, "failure %d", n)
				for _, retryAfter := range []time.Duration{1, time.Second, time.Hour, 1 << 31 * time.Second} {
					require.GreaterOrEqual(t, w.pauseAfter(n, retryAfter), retryAfter)
				}
			}
		}
	}
}
