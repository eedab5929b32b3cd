package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// delivery is the part of a queue.Delivery that ends it or keeps it.
type delivery interface {
	Context(ctx context.Context) context.Context
	Done(ctx context.Context) error
	Retry(ctx context.Context, after time.Duration) error
	KeepAlive() error
	Body() []byte
}

// job is one delivery of a request, and what is learned of it on the way.
type job struct {
	request   queue.Request
	err       error // why the message cannot be read
	delivered int
	storedAt  time.Time
	delivery  delivery

	entry    queue.Entry // of the ledger
	onLedger bool        // an entry may be stored, to be cleared at the end
}

func newJob(d *queue.Delivery) *job {
	return &job{
		request: d.Request, err: d.Err, delivered: d.Delivered, storedAt: d.StoredAt, delivery: d,
		onLedger: d.Delivered > 1,
	}
}

// result is what became of a job. Exactly one of its parts is set.
type result struct {
	outcome  *queue.Outcome // the request ends with it
	recorded bool           // outcome is read from the queue, not new
	retry    *retry         // the request comes again
}

// retry says when a request comes again. Its entry goes to the ledger first.
type retry struct {
	after  time.Duration
	silent bool // nothing to note in the ledger: the message is for others
}

// handle takes one job from its delivery to its end here. A stop of the lane
// (fetch) gives back what was not begun.
func (w *Worker) handle(ctx, fetch context.Context, j *job) {
	ctx = j.delivery.Context(ctx)
	alive := w.keepAlive(j)
	defer alive.stop()
	began := time.Now()
	r := w.work(ctx, fetch, j)
	w.settle(ctx, j, r, began, alive)
}

// work finds out what is to become of a job: from the message, from what the
// queue knows of it, or by signing.
func (w *Worker) work(ctx, fetch context.Context, j *job) result {
	if r, ok := w.refuse(j); ok {
		return r
	}
	if r, ok := w.recall(ctx, j); ok {
		return r
	}
	if fetch.Err() != nil {
		return result{retry: &retry{}}
	}
	cancelled, err := w.cancelled.is(ctx, j.request.Batch)
	if err != nil {
		w.log.Warn("cannot ask whether the batch is cancelled, going on", zap.Error(err))
	}
	if cancelled {
		return w.end(j, queue.Cancelled, "", "")
	}
	signed, waited, err := w.sign(ctx, j.request, j.entry)
	j.entry.Waited += queue.Seconds(waited)
	if err != nil {
		return w.failed(ctx, j, signed, err)
	}
	return w.signed(j, signed)
}

// refuse ends what cannot be read.
func (w *Worker) refuse(j *job) (result, bool) {
	var newer *queue.VersionError
	switch {
	case errors.As(j.err, &newer) && time.Since(j.storedAt) < w.options.NewerPatience:
		w.log.Warn("request of a later version left for a newer worker", zap.Error(j.err), zap.String("batch", j.request.Batch))
		return result{retry: &retry{after: w.options.NewerWait, silent: true}}, true
	case j.err != nil:
		return w.end(j, queue.Dead, InvalidRequest, j.err.Error()), true
	case j.request.Reference == "":
		return w.end(j, queue.Dead, InvalidRequest, j.request.Problem), true
	}
	return result{}, false
}

// recall looks at what earlier deliveries left behind, and counts a death
// where the last one left nothing. A first delivery costs no request.
func (w *Worker) recall(ctx context.Context, j *job) (result, bool) {
	if j.delivered <= 1 {
		return result{}, false
	}
	call, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	o, err := w.records.Outcome(call, j.request.Batch, j.request.ID, j.request.Gen)
	if err == nil || errors.Is(err, queue.ErrUnreadable) {
		// Whoever recorded it did not live to acknowledge.
		return result{outcome: &o, recorded: true}, true
	}
	entry, ok, err := w.records.Ledger(call, j.request)
	var newer *queue.VersionError
	if errors.As(err, &newer) {
		w.log.Warn("request with a ledger entry of a later version left for a newer worker", zap.Error(err))
		return result{retry: &retry{after: w.options.NewerWait, silent: true}}, true
	}
	if err != nil && !errors.Is(err, queue.ErrUnreadable) {
		// What stands there stays: this delivery leaves no trace.
		w.log.Warn("cannot read the ledger, giving the request back", zap.Error(err))
		return result{retry: &retry{after: w.options.BackoffMin, silent: true}}, true
	}
	if !ok || entry.InFlight {
		entry.Deaths++
	}
	entry.InFlight = true
	j.entry = entry
	if entry.Deaths > w.options.MaxDeaths {
		return w.end(j, queue.Dead, Poison, fmt.Sprintf("%d workers that had this request were not heard of again", entry.Deaths)), true
	}
	if err := w.note(call, j); err != nil {
		// It may stand there all the same, and "in flight" is to go with the nak.
		w.log.Warn("cannot write the ledger, giving the request back", zap.Error(err))
		return result{retry: &retry{after: w.options.BackoffMin}}, true
	}
	return result{}, false
}

// sign makes one attempt within its limits. A panic is a failure of the attempt.
func (w *Worker) sign(ctx context.Context, r queue.Request, e queue.Entry) (signed sign.Result, waited time.Duration, err error) {
	limit := time.Duration(r.Timeout)
	if limit == 0 {
		limit = w.options.Timeout
	}
	left := max(w.options.MaxWait-time.Duration(e.Waited), time.Millisecond)
	ctx, clock, stop := deadline.With(ctx, deadline.Limits{Work: limit, Wait: left})
	defer stop()
	defer func() {
		waited = clock.Waited()
		if p := recover(); p != nil {
			err = &sign.PanicError{Value: p, Stack: debug.Stack()}
		}
		var panicked *sign.PanicError
		if errors.As(err, &panicked) {
			w.log.Error("panic while signing", zap.Any("panic", panicked.Value), zap.ByteString("stack", panicked.Stack), zap.String("reference", r.Reference))
		}
		if cause := context.Cause(ctx); err != nil && cause != nil {
			// What an aborted call says matters less than why it was aborted.
			err = &abortedError{cause: cause, err: err}
		}
	}()
	signed, err = w.signer.Sign(ctx, sign.Request{
		Reference: r.Reference,
		Digest:    r.Digest,
		Platforms: r.Platforms,
		Keys:      r.Keys,
		Identity:  r.Identity,
	})
	return signed, 0, err
}

// abortedError is a failure of a call whose context was ended for a cause.
type abortedError struct {
	cause error
	err   error
}

func (e *abortedError) Error() string   { return e.cause.Error() + " (" + e.err.Error() + ")" }
func (e *abortedError) Unwrap() []error { return []error{e.cause, e.err} }

// signed is the end of a job whose image was signed, or had nothing to sign.
func (w *Worker) signed(j *job, s sign.Result) result {
	j.entry.Attempts++
	verdict, reason := queue.Signed, ""
	switch {
	case s.Skipped != "":
		verdict, reason = queue.Skipped, s.Skipped
	case allAlready(s.Signed):
		verdict = queue.AlreadySigned
	}
	return w.end(j, verdict, "", reason).carrying(s)
}

// carrying adds to an outcome what was signed.
func (r result) carrying(s sign.Result) result {
	r.outcome.Digest = s.Digest
	for _, signature := range s.Signed {
		r.outcome.Digests = append(r.outcome.Digests, queue.SignedDigest(signature))
	}
	return r
}

func allAlready(signatures []sign.Signature) bool {
	for _, s := range signatures {
		if !s.Already {
			return false
		}
	}
	return true
}

// failed decides between another attempt and the end, by the delivery table of
// the design. signed is what was signed before the failure.
func (w *Worker) failed(ctx context.Context, j *job, signed sign.Result, err error) result {
	if errors.Is(context.Cause(ctx), errDrained) {
		return result{retry: &retry{}} // not an attempt
	}
	f := classify(err)
	j.entry.Class, j.entry.Error = f.class, err.Error()
	dead := func() result { return w.end(j, queue.Dead, f.class, err.Error()).carrying(signed) }
	if f.waited {
		return dead()
	}
	if f.class == RateLimited {
		// Waiting out a 429 is not an attempt, but it is waiting.
		after := w.pauseAfter(j.delivered, f.retryAfter)
		j.entry.Waited += queue.Seconds(after)
		if time.Duration(j.entry.Waited) > w.options.MaxWait {
			return dead()
		}
		return result{retry: &retry{after: after}}
	}
	j.entry.Attempts++
	if f.permanent || j.entry.Attempts >= w.options.Attempts || f.retryAfter > w.options.MaxWait {
		return dead()
	}
	return result{retry: &retry{after: w.pauseAfter(j.entry.Attempts, f.retryAfter)}}
}

// pauseAfter is the pause after the nth failure, and never shorter than what
// the registry asked for. Jitter keeps those that failed together from coming
// back together, after a pause that the registry gave to all of them too.
func (w *Worker) pauseAfter(n int, retryAfter time.Duration) time.Duration {
	backoff := w.options.BackoffMin
	for i := 1; i < n && backoff < w.options.BackoffMax; i++ {
		backoff *= 2
	}
	backoff = min(backoff, w.options.BackoffMax)
	part := func(d time.Duration) time.Duration {
		return time.Duration(w.random() * w.options.Jitter * float64(d))
	}
	return max(
		backoff-time.Duration(w.options.Jitter*float64(backoff))+2*part(backoff),
		retryAfter+part(min(retryAfter, w.options.BackoffMax)),
	)
}

// end makes the outcome of a job; settle completes it.
func (w *Worker) end(j *job, verdict queue.Verdict, class, reason string) result {
	r := j.request
	return result{outcome: &queue.Outcome{
		ID: r.ID, Gen: r.Gen, Batch: r.Batch, Seq: r.Seq, Line: r.Line, Reference: r.Reference,
		Verdict: verdict, Class: class, Error: reason,
		Worker: w.options.Name, Attempts: j.entry.Attempts, SubmittedAt: r.SubmittedAt,
	}}
}
