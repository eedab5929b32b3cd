package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
)

// ledger is a job's view of its entry in the queue's ledger.
type ledger struct {
	entry   queue.Entry // as it is to be
	stored  queue.Entry // as it is, when known
	known   bool
	read    bool // it was looked for
	touched bool // there may be one, to be cleared at the end
}

// found takes over what the ledger says.
func (l *ledger) found(stored queue.Entry, ok bool) {
	l.read, l.known, l.stored = true, ok, stored
	l.touched = l.touched || ok
}

// recall looks at what earlier deliveries left behind, and counts a death
// where the last one left nothing. A first delivery costs no request.
func (w *Worker) recall(ctx context.Context, j *job) (result, bool) {
	if j.delivered <= 1 {
		return result{}, false
	}
	call, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	stored, ok, err := w.records.Ledger(call, j.request)
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
	j.found(stored, ok)
	j.entry = stored
	if !ok || stored.InFlight {
		j.entry.Deaths++
		j.entry.InFlight = false
	}
	if j.entry.Deaths > w.options.MaxDeaths {
		return w.end(j, queue.Dead, Poison, fmt.Sprintf("%d workers that had this request were not heard of again", j.entry.Deaths)), true
	}
	if j.entry.Attempts >= w.options.Attempts {
		// The last attempt was made, and its worker stopped before it could record the end.
		return w.end(j, queue.Dead, j.entry.Class, j.entry.Error), true
	}
	return result{}, false
}

// begin sees to it that an attempt at a redelivery is not in vain, and that it
// is known of should its worker die.
func (w *Worker) begin(ctx context.Context, j *job) (result, bool) {
	if j.delivered <= 1 {
		return result{}, false
	}
	call, cancel := context.WithTimeout(ctx, callPatience)
	o, err := w.records.Outcome(call, j.request.Batch, j.request.ID, j.request.Gen)
	cancel()
	if newer := new(queue.VersionError); errors.As(err, &newer) {
		w.log.Warn("request with an outcome of a later version left for a newer worker", zap.Error(err))
		return result{retry: &retry{after: w.options.NewerWait, silent: true}}, true
	}
	if err == nil || errors.Is(err, queue.ErrUnreadable) {
		// Whoever recorded it did not live to acknowledge.
		return result{outcome: &o, recorded: true}, true
	}
	j.entry.InFlight = true
	call, cancel = context.WithTimeout(ctx, callPatience)
	defer cancel()
	if err := w.note(call, j); err != nil {
		// It may stand there all the same, and "in flight" is to go with the nak.
		w.log.Warn("cannot write the ledger, giving the request back", zap.Error(err))
		return result{retry: &retry{after: w.options.BackoffMin}}, true
	}
	return result{}, false
}

// catchUp adds to a job what earlier deliveries left behind that the server has
// forgotten: after a crash it may take a late delivery for the first. So a
// first delivery looks as soon as it writes, or counts. An entry in flight is no
// death then: whoever wrote it may have come later, and be at it.
func (w *Worker) catchUp(ctx context.Context, j *job) {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callPatience)
	defer cancel()
	if err := w.look(call, j); err != nil {
		w.log.Warn("cannot read the ledger, going on without", zap.Error(err))
	}
}

func (w *Worker) look(ctx context.Context, j *job) error {
	if j.read {
		return nil
	}
	stored, ok, err := w.records.Ledger(ctx, j.request)
	if err != nil && !errors.Is(err, queue.ErrUnreadable) {
		return err
	}
	j.found(stored, ok)
	j.entry.Attempts += stored.Attempts
	j.entry.Deaths += stored.Deaths
	j.entry.Waited += stored.Waited
	return nil
}

// note writes the job's entry to the ledger, unless it stands there already.
func (w *Worker) note(ctx context.Context, j *job) error {
	if err := w.look(ctx, j); err != nil {
		return err
	}
	if j.known && j.entry == j.stored {
		return nil
	}
	j.entry.Reference, j.entry.Worker, j.entry.UpdatedAt = j.request.Reference, w.options.Name, time.Now().UTC()
	j.known, j.touched = false, true // until the answer comes
	if err := w.records.WriteLedger(ctx, j.request, j.entry); err != nil {
		return err
	}
	j.stored, j.known = j.entry, true
	return nil
}
