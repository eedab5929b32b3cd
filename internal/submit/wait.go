package submit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/queue"
)

// StalledError says that requests of a batch have neither an outcome nor a place
// in the queue. The server has lost them, or they were never published: only a
// submission that has the list can bring them back.
type StalledError struct {
	Batch   string
	Missing int
	// Published is false for a batch that was not published to its end; Missing
	// is then how many are known of.
	Published bool
}

func (e *StalledError) Error() string {
	if !e.Published {
		return fmt.Sprintf("batch %s was not submitted to its end, and nothing of it is in the queue", e.Batch)
	}
	return fmt.Sprintf("batch %s: %d of its requests have neither an outcome nor a place in the queue", e.Batch, e.Missing)
}

// How often the record of a batch is read until it is published, and how old it
// may be while somebody publishes.
const (
	recordEvery = time.Second
	recordStale = time.Minute
)

// waiting is one wait for the end of a batch.
type waiting struct {
	*Batch
	course    *course
	recorded  bool
	seen      queue.Batch // its record, as it was last read
	published atomic.Int64
}

// Wait follows the batch until every request has its final outcome, also that of
// a retry that is asked for meanwhile. It survives the loss of the server, and
// publishes again what a retry noted and nobody published. When nothing is left
// that could bring the batch to its end, the error is a *StalledError.
func (b *Batch) Wait(ctx context.Context, onProgress func(Progress)) error {
	w := &waiting{Batch: b, course: newCourse(b.conn, b.id)}
	defer w.course.tally.Close() //nolint:errcheck // a file without a name
	var err error
	if w.seen, w.recorded, err = b.record(ctx); err != nil {
		return err
	}
	w.learn()
	told := func() {
		if onProgress != nil {
			total := max(0, int(w.course.total.Load()))
			onProgress(Progress{Total: total, Published: int(w.published.Load()), Tally: w.course.tally.counts()})
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.course.follow(ctx, func() {}, told) })
	group.Go(func() error { return w.watch(ctx) })
	err = group.Wait()
	if errors.Is(err, errComplete) {
		return nil
	}
	return err
}

// learn takes from the record how far the publishing has come.
func (w *waiting) learn() {
	w.published.Store(int64(max(w.seen.Accepted, w.seen.Total)))
	if w.seen.Published {
		w.course.total.Store(int64(w.seen.Total))
	}
}

// watch learns when all is published, and looks now and then for requests that
// were lost. It returns with errComplete, a *StalledError or the end of ctx.
func (w *waiting) watch(ctx context.Context) error {
	every := w.CheckEvery
	if every <= 0 {
		every = defaultCheckEvery
	}
	ticker := time.NewTicker(min(every, recordEvery))
	defer ticker.Stop()
	moved := w.course.movement()
	var checked time.Time
	stalled := false
	for {
		if err := w.readRecord(ctx); err != nil {
			return err
		}
		if time.Since(checked) >= every {
			missing := false
			if !moved() {
				var err error
				if missing, err = w.lost(ctx); err != nil {
					return err
				}
			}
			// A submission beside this one looks as often, and publishes again
			// what was lost: it gets the time for that.
			if missing && stalled {
				return w.stalled()
			}
			stalled, checked = missing, time.Now()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stalled is the error of a batch that does not come to its end.
func (w *waiting) stalled() error {
	missing := expected(w.seen, 0, w.course.tally) - w.course.tally.counts().Done()
	return &StalledError{Batch: w.id, Missing: max(0, missing), Published: w.seen.Published || !w.recorded}
}

// readRecord reads the record until it says that all is published.
func (w *waiting) readRecord(ctx context.Context) error {
	if w.seen.Published || !w.recorded {
		return nil
	}
	record, recorded, err := w.record(ctx)
	if err != nil || !recorded {
		return nil //nolint:nilerr // the server is away: it is read again
	}
	w.seen = record
	w.learn()
	return w.course.endIfComplete(ctx)
}

// lost reports whether the queue holds nothing of the batch and nothing is to be
// expected any more, although it is not at its end. Retries that were noted and
// are nowhere it publishes.
func (w *waiting) lost(ctx context.Context) (bool, error) {
	inQueue, err := w.conn.Waiting(ctx, w.id)
	if denied := new(queue.DeniedError); errors.As(err, &denied) {
		return false, err
	}
	if err != nil || inQueue > 0 {
		return false, nil //nolint:nilerr // the server is away: it is asked again
	}
	// An outcome is recorded before its request leaves the queue: all there are
	// can be read now.
	if err := w.course.catchUp(ctx); err != nil {
		return false, err
	}
	if err := w.course.endIfComplete(ctx); err != nil {
		return false, err
	}
	asked, err := w.askAgain(ctx, w.course, w.seen, w.recorded)
	switch {
	case err != nil || asked > 0:
		return false, err
	case !w.recorded && w.course.tally.asked() == 0:
		return false, errComplete // as many as there were
	case w.recorded && !w.seen.Published:
		return time.Since(w.seen.UpdatedAt) > recordStale, nil
	}
	return true, nil
}
