package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
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
	lane      string
	host      string // of the registry
	delivery  delivery

	waited  time.Duration // in the queue, for the first delivery
	timings sign.Timings  // of the attempt

	ledger
}

func newJob(d *queue.Delivery) *job {
	return &job{
		request: d.Request, err: d.Err, delivered: d.Delivered, storedAt: d.StoredAt,
		lane: d.Lane, host: hostOf(d.Request.Reference), delivery: d,
		ledger: ledger{touched: d.Delivered > 1},
	}
}

// key names a request's generation.
func (j *job) key() string {
	return fmt.Sprintf("%s.%s.%d", j.request.Batch, j.request.ID, j.request.Gen)
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
	silent bool // the ledger stays as it is, so that the next delivery finds what this one found
}

// untouched is the retry of a job that was not looked into. Only at a first
// delivery is something to be noted: that its worker is alive.
func untouched(j *job, after time.Duration) result {
	return result{retry: &retry{after: after, silent: j.delivered > 1}}
}

// handle takes one job from its delivery to its end here. A stop of the lane
// (fetch) gives back what was not begun.
func (w *Worker) handle(ctx, fetch context.Context, j *job) {
	began := time.Now()
	ctx, span := w.tell.process(j.delivery.Context(ctx), j)
	defer func() {
		span.End()
		w.tell.processed(ctx, j, time.Since(began))
	}()
	alive := w.keepAlive(j)
	defer alive.stop()
	if !w.inWork.take(j) {
		// The queue has forgotten, or not heard, that it is here already.
		w.giveBack(ctx, j, &retry{after: w.options.Heartbeat, silent: true}, alive)
		return
	}
	defer w.inWork.drop(j)
	w.tell.delivered(ctx, j, began)
	r := w.work(ctx, fetch, j)
	w.settle(ctx, j, r, began, alive)
}

// work finds out what is to become of a job: from the message, from what the
// queue and people say of it, or by signing. What costs least comes first:
// behind one dead registry there may be 100,000 requests.
func (w *Worker) work(ctx, fetch context.Context, j *job) result {
	if r, ok := w.refuse(j); ok {
		return r
	}
	if fetch.Err() != nil {
		return untouched(j, 0)
	}
	cancelled := w.control.isCancelled(ctx, j.request)
	if !cancelled && (w.control.isPaused(ctx, j.lane) || w.control.isPaused(ctx, j.host)) {
		j.entry.Error = "paused by an operator" // for people, where this is the first that is known of it
		return untouched(j, w.options.PauseWait)
	}
	if r, ok := w.recall(ctx, j); ok {
		return r
	}
	if cancelled {
		return w.end(j, queue.Cancelled, "", "")
	}
	if err := w.gate.shut(); err != nil {
		return w.withoutKeys(j, err)
	}
	signing, at, away := w.inWork.enter(ctx, j)
	if away != nil {
		return w.sendAway(j, away)
	}
	defer at.leave()
	if r, ok := w.begin(ctx, j); ok {
		return r
	}
	signed, err := w.sign(signing, j, at)
	j.timings = signed.Timings
	if err != nil {
		return w.failed(signing, j, at, signed, err)
	}
	at.answered()
	return w.signed(signing, j, signed)
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

// sendAway gives back a job whose registry has no time for it. That is no
// attempt, but it is waiting.
func (w *Worker) sendAway(j *job, a *away) result {
	after := a.after + w.part(a.spread)
	j.entry.Waited += queue.Seconds(after)
	j.entry.Class, j.entry.Error = RegistryUnavailable, a.reason
	if time.Duration(j.entry.Waited) > w.options.MaxWait {
		return w.end(j, queue.Dead, RegistryUnavailable, fmt.Sprintf("it would wait longer than %s: %s", w.options.MaxWait, a.reason))
	}
	return result{retry: &retry{after: after}}
}

// sign makes one attempt within its limits. A panic is a failure of the attempt.
func (w *Worker) sign(ctx context.Context, j *job, at *stay) (signed sign.Result, err error) {
	r := j.request
	limit := time.Duration(r.Timeout)
	if limit == 0 {
		limit = w.options.Timeout
	}
	left := max(w.options.MaxWait-time.Duration(j.entry.Waited), time.Millisecond)
	ctx, clock, stop := deadline.With(ctx, deadline.Limits{Work: limit, Wait: left})
	defer stop()
	at.begins(clock)
	defer func() {
		j.entry.Waited += queue.Seconds(clock.Waited())
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
	return w.signer.Sign(ctx, sign.Request{
		Reference: r.Reference,
		Digest:    r.Digest,
		Platforms: r.Platforms,
		Keys:      r.Keys,
		Identity:  r.Identity,
	})
}

// abortedError is a failure of a call whose context was ended for a cause.
type abortedError struct {
	cause error
	err   error
}

func (e *abortedError) Error() string   { return e.cause.Error() + " (" + e.err.Error() + ")" }
func (e *abortedError) Unwrap() []error { return []error{e.cause, e.err} }

// signed is the end of a job whose image was signed, or had nothing to sign.
func (w *Worker) signed(ctx context.Context, j *job, s sign.Result) result {
	verdict, reason := queue.Signed, ""
	switch {
	case s.Skipped != "":
		verdict, reason = queue.Skipped, s.Skipped
	case allAlready(s.Signed):
		verdict = queue.AlreadySigned
	}
	r := w.end(j, verdict, "", reason).carrying(s)
	w.tell.attempted(ctx, "")
	r.outcome.Attempts++ // not in the ledger: unless it is recorded, it has to be made again
	return r
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
func (w *Worker) failed(ctx context.Context, j *job, at *stay, signed sign.Result, err error) result {
	switch cause := context.Cause(ctx); {
	// What was cut short was no attempt, and says nothing of the registry.
	case errors.Is(cause, errDrained):
		return result{retry: &retry{}}
	case errors.Is(cause, errCancelled):
		return w.end(j, queue.Cancelled, "", "").carrying(signed)
	case errors.Is(cause, errCrowded):
		return w.sendAway(j, &away{after: turnPause, spread: turnPause, reason: at.host.name + ": " + errCrowded.Error()})
	}
	f := classify(err)
	j.entry.Class, j.entry.Error = f.class, shortened(err.Error())
	dead := func() result { return w.end(j, queue.Dead, f.class, err.Error()).carrying(signed) }
	if f.waited {
		return dead() // for others: of the registry it says nothing
	}
	switch {
	case f.breaks():
		at.failed(err)
	case !f.unheard:
		at.answered()
	}
	if f.permanent {
		j.entry.Attempts++
		w.tell.attempted(ctx, f.class)
		return dead()
	}
	w.catchUp(ctx, j)
	if f.class == KeyUnavailable && w.gate.failed(err, at.began) {
		r := w.withoutKeys(j, err)
		if r.outcome != nil {
			r = r.carrying(signed)
		}
		return r
	}
	if f.class == RateLimited {
		// Waiting out a 429 is not an attempt, but it is waiting.
		after := w.pauseAfter(j.delivered, f.retryAfter)
		j.entry.Waited += queue.Seconds(after)
		if time.Duration(j.entry.Waited) > w.options.MaxWait {
			return dead()
		}
		return w.again(j, after)
	}
	j.entry.Attempts++
	w.tell.attempted(ctx, f.class)
	if j.entry.Attempts >= w.options.Attempts || f.retryAfter > w.options.MaxWait {
		return dead()
	}
	return w.again(j, w.pauseAfter(j.entry.Attempts, f.retryAfter))
}

// again is the retry of what failed.
func (w *Worker) again(j *job, after time.Duration) result {
	w.log.Info("image will be tried again", zap.String("reference", j.request.Reference), zap.String("class", j.entry.Class),
		zap.Int("attempts", j.entry.Attempts), zap.Duration("after", after), zap.String("error", j.entry.Error))
	return result{retry: &retry{after: after}}
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
	return max(
		backoff-time.Duration(w.options.Jitter*float64(backoff))+2*w.part(backoff),
		retryAfter+w.part(min(retryAfter, w.options.BackoffMax)),
	)
}

// part is a random part of d, up to its share Jitter.
func (w *Worker) part(d time.Duration) time.Duration {
	return time.Duration(w.random() * w.options.Jitter * float64(d))
}

// maxReason bounds the text of a failure, in bytes: what a stranger wrote may be
// quoted in it.
const maxReason = 8 << 10

// shortened is a text of at most maxReason bytes.
func shortened(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "") + "..."
}

// end makes the outcome of a job; settle completes it.
func (w *Worker) end(j *job, verdict queue.Verdict, class, reason string) result {
	r := j.request
	o := &queue.Outcome{
		ID: r.ID, Gen: r.Gen, Batch: r.Batch, Seq: r.Seq, Line: r.Line, Reference: r.Reference,
		Verdict: verdict, Class: class, Error: shortened(reason),
		Worker: w.options.Name, Attempts: j.entry.Attempts, SubmittedAt: r.SubmittedAt,
	}
	if verdict == queue.Cancelled {
		o.Request = &r // for a retry: it has no dead letter
	}
	return result{outcome: o}
}
