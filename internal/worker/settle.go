package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
)

// callPatience bounds one call to the queue: a question that is lost with its
// connection gets no answer ever.
const callPatience = 10 * time.Second

// ledgerPatience is how long a request is kept whose entry the ledger does not
// take: a server that restarts is waited for, one that is full is not.
const ledgerPatience = time.Minute

// The pauses between repeated calls to a queue that does not take a record.
const (
	recordPauseMin = 100 * time.Millisecond
	recordPauseMax = 5 * time.Second
)

// settle writes down what became of a job, always in the same order: ledger,
// then nak; outcome, then dead letter, then acknowledgement, then the ledger
// entry goes. A crash between any two steps repeats something harmless.
func (w *Worker) settle(ctx context.Context, j *job, r result, began time.Time, alive *heartbeat) {
	if r.retry != nil {
		w.giveBack(ctx, j, r.retry, alive)
		return
	}
	outcome := *r.outcome
	if !r.recorded {
		outcome.StartedAt, outcome.FinishedAt = began.UTC(), time.Now().UTC()
		stored, ok := w.record(ctx, outcome)
		if !ok {
			w.giveBack(ctx, j, &retry{}, alive)
			return
		}
		// One that was there already has been counted.
		if stored.Worker == outcome.Worker && stored.FinishedAt.Equal(outcome.FinishedAt) {
			w.tell.ended(ctx, j, stored)
		}
		outcome = stored
	}
	if outcome.Verdict == queue.Dead && !w.bury(ctx, j, outcome) {
		w.giveBack(ctx, j, &retry{}, alive)
		return
	}
	concluded(ctx, outcome)
	w.logEnd(ctx, j, outcome)
	alive.stop() // a sign of life behind the acknowledgement would be refused
	if err := within(ctx, j.delivery.Done); err != nil {
		// Not repeated: a server that has forgotten the delivery never confirms
		// it. The request comes again, and its outcome is found.
		w.log.Warn("cannot acknowledge, the request comes again and ends at once", zap.Error(err))
		return
	}
	if !j.touched {
		return
	}
	clearLedger := func(call context.Context) error { return w.records.ClearLedger(call, j.request) }
	if err := within(ctx, clearLedger); err != nil {
		w.log.Warn("a ledger entry stays until it is too old", zap.Error(err))
	}
}

// record stores the outcome and returns the one that counts. It goes on trying
// while the queue cannot take it, until the worker is stopped.
func (w *Worker) record(ctx context.Context, o queue.Outcome) (stored queue.Outcome, ok bool) {
	ok = w.persist(ctx, "cannot record an outcome, trying again", func(call context.Context) (err error) {
		stored, err = w.records.Record(call, o)
		for errors.Is(err, queue.ErrTooLarge) && w.lighten(&o) {
			stored, err = w.records.Record(call, o)
		}
		if errors.Is(err, queue.ErrUnreadable) {
			// The request has its one outcome, whatever it says.
			w.log.Error("an outcome that cannot be read is recorded already, and stays", zap.Error(err))
			stored, err = o, nil
		}
		return err
	})
	return stored, ok
}

// lighten takes from an outcome what a message has no room for, and reports
// whether there was something to take.
func (w *Worker) lighten(o *queue.Outcome) bool {
	switch {
	case len(o.Digests) > 0:
		// The signatures are where they belong; only their list has no room.
		w.log.Error("outcome recorded without its signatures, they are too many for a message",
			zap.String("reference", o.Reference), zap.Int("signatures", len(o.Digests)))
		o.Digests = nil
	case o.Request != nil:
		w.log.Error("outcome recorded without its request, which cannot be retried", zap.String("reference", o.Reference))
		o.Request = nil
	case len(o.Line)+len(o.Reference) > 2*maxReason:
		w.log.Error("outcome recorded without the whole of its line, which is too long", zap.String("id", o.ID), zap.Int("bytes", len(o.Line)))
		o.Line, o.Reference = queue.Text(shortened(string(o.Line))), shortened(o.Reference)
	default:
		return false
	}
	return true
}

// lightenLetter takes from a dead letter what a message has no room for, and
// reports whether there was something to take.
func (w *Worker) lightenLetter(letter *queue.DeadLetter) bool {
	r := &letter.Request
	switch {
	case len(letter.Body) > maxReason:
		letter.Body = letter.Body[:maxReason]
	case len(r.Line)+len(r.Problem)+len(r.Reference) > 3*maxReason:
		w.log.Error("dead letter stored without the whole of its line, which is too long", zap.String("id", r.ID), zap.Int("bytes", len(r.Line)))
		r.Line, r.Problem, r.Reference = queue.Text(shortened(string(r.Line))), shortened(r.Problem), shortened(r.Reference)
	default:
		return false
	}
	return true
}

func (w *Worker) bury(ctx context.Context, j *job, o queue.Outcome) bool {
	letter := queue.DeadLetter{
		Request: j.request, Class: o.Class, Error: o.Error,
		Attempts: o.Attempts, Worker: o.Worker, DiedAt: o.FinishedAt,
	}
	if j.err != nil {
		letter.Body = j.delivery.Body() // all there is of what was asked
	}
	return w.persist(ctx, "cannot store a dead letter, trying again", func(call context.Context) error {
		err := w.records.Bury(call, letter)
		for errors.Is(err, queue.ErrTooLarge) && w.lightenLetter(&letter) {
			err = w.records.Bury(call, letter)
		}
		return err
	})
}

// persist repeats a call to the queue until it succeeds. Once ctx has ended it
// is tried one last time.
func (w *Worker) persist(ctx context.Context, complaint string, do func(context.Context) error) bool {
	for wait := recordPauseMin; ; wait = min(2*wait, recordPauseMax) {
		err := within(ctx, do)
		if err == nil {
			return true
		}
		w.log.Warn(complaint, zap.Error(err))
		if ctx.Err() != nil {
			return false
		}
		pause(ctx, wait)
	}
}

// giveBack notes in the ledger what is known of the job and hands the request
// back. If neither succeeds the queue delivers it again by itself.
func (w *Worker) giveBack(ctx context.Context, j *job, r *retry, alive *heartbeat) {
	if !r.silent {
		j.entry.InFlight = false
		bounded, cancel := context.WithTimeout(ctx, ledgerPatience)
		w.persist(bounded, "cannot write the ledger", func(call context.Context) error { return w.note(call, j) })
		cancel()
	}
	alive.stop()
	handBack := func(call context.Context) error { return j.delivery.Retry(call, r.after) }
	if err := within(ctx, handBack); err != nil {
		w.log.Warn("cannot give a request back, it comes again after the ack wait", zap.Error(err))
	}
}

// within makes one call of the settling. It outlives a stop of the work: what
// was done must not be done again.
func within(ctx context.Context, do func(context.Context) error) error {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callPatience)
	defer cancel()
	return do(call)
}

// logEnd is the one line of a finished image.
func (w *Worker) logEnd(ctx context.Context, j *job, o queue.Outcome) {
	fields := []zap.Field{
		zap.String("reference", o.Reference), zap.String("digest", o.Digest), zap.String("outcome", string(o.Verdict)),
		zap.Int("signatures", len(o.Digests)), zap.Int("attempts", o.Attempts),
		zap.Duration("took", o.FinishedAt.Sub(o.StartedAt)), zap.Duration("queued", j.waited),
		zap.Duration("resolve", j.timings.Resolve), zap.Duration("sign", j.timings.Sign), zap.Duration("attach", j.timings.Attach),
		zap.String("batch", o.Batch), zap.String("id", o.ID),
	}
	if trace := traceID(ctx); trace != "" {
		fields = append(fields, zap.String("trace_id", trace))
	}
	switch {
	case o.Verdict == queue.Dead:
		w.images.Error("image failed", append(fields, zap.String("class", o.Class), zap.String("error", o.Error), zap.String("line", string(o.Line)))...)
	case o.Error != "":
		w.images.Info("image done", append(fields, zap.String("reason", o.Error))...)
	default:
		w.images.Info("image done", fields...)
	}
}
