package submit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// Batch is a batch known by its records on the server alone. All that is asked
// of it can be asked from any machine, as long as the records are kept.
type Batch struct {
	// CheckEvery is how often Wait looks for requests that were lost (default 30 s).
	CheckEvery time.Duration

	conn *queue.Conn
	id   string
}

// ErrNoBatch says that nothing is known of a batch.
var ErrNoBatch = errors.New("there is no batch of that name")

// Find finds a batch, or ErrNoBatch. That of a source of events has no record:
// it is there as long as something of it is.
func Find(ctx context.Context, conn *queue.Conn, id string) (*Batch, error) {
	if !queue.ValidName(id) {
		return nil, fmt.Errorf("batch %q: %w", id, ErrNoBatch)
	}
	b := &Batch{conn: conn, id: id}
	_, recorded, err := b.record(ctx)
	if err != nil || recorded {
		return b, err
	}
	waiting, err := conn.Waiting(ctx, id)
	if err != nil || waiting > 0 {
		return b, err
	}
	switch err := conn.Outcomes(ctx, id, func(queue.Outcome) error { return errFound }); {
	case errors.Is(err, errFound):
		return b, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("batch %s: %w", id, ErrNoBatch)
}

// errFound ends the search for any outcome.
var errFound = errors.New("found")

// ID is the name of the batch.
func (b *Batch) ID() string { return b.id }

// Cancel ends the batch: what was asked for until now, retries included, ends as
// cancelled unless it has ended. A retry after this runs.
func (b *Batch) Cancel(ctx context.Context) error {
	highest := 0
	err := b.conn.RetryNotes(ctx, b.id, func(n queue.RetryNote) error {
		highest = max(highest, n.Gen)
		return nil
	})
	if err != nil {
		return err
	}
	return b.conn.Cancel(ctx, b.id, highest)
}

// Finish notes that the batch has its report, unless it is under way again: a
// retry may have begun since.
func (b *Batch) Finish(ctx context.Context) error {
	record, recorded, err := b.record(ctx)
	if err != nil || !recorded || record.Finished {
		return err
	}
	if waiting, err := b.conn.Waiting(ctx, b.id); err != nil || waiting > 0 {
		return err
	}
	return amend(ctx, b.conn, record, func(record *queue.Batch) { record.Finished = true })
}

// record is the record of the batch, unless it has none.
func (b *Batch) record(ctx context.Context) (record queue.Batch, recorded bool, err error) {
	record, err = b.conn.Batch(ctx, b.id)
	if errors.Is(err, queue.ErrNone) {
		return queue.Batch{ID: b.id}, false, nil
	}
	return record, err == nil, err
}

// course reads how the batch has gone so far. Its tally must be closed.
func (b *Batch) course(ctx context.Context, record queue.Batch) (*course, error) {
	c := newCourse(b.conn, b.id)
	if record.Published {
		c.total.Store(int64(record.Total))
	}
	if err := c.catchUp(ctx); err != nil {
		return nil, errors.Join(err, c.tally.Close())
	}
	return c, nil
}

// amend changes the record of a batch, or what is known of it where that is no
// longer kept. What others have written meanwhile of other things stays.
func amend(ctx context.Context, conn *queue.Conn, known queue.Batch, change func(*queue.Batch)) error {
	record, err := conn.Batch(ctx, known.ID)
	if errors.Is(err, queue.ErrNone) {
		record, err = known, nil
	}
	if err != nil {
		return err
	}
	change(&record)
	return conn.WriteBatch(ctx, record)
}

// Summary is one line about a batch.
type Summary struct {
	Batch     string    `json:"batch"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
	Total     int       `json:"total"`
	Accepted  int       `json:"accepted"`
	Published bool      `json:"published"`
	Finished  bool      `json:"finished"`
	Cancelled bool      `json:"was_cancelled"`
	// Waiting is how many requests are in the queue or in a worker's hands.
	Waiting int `json:"waiting"`
}

// Summaries are all batches that there are records of, the oldest first, and
// behind them those that have none and are in the queue.
func Summaries(ctx context.Context, conn *queue.Conn) ([]Summary, error) {
	backlog, err := conn.Backlog(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[string]Summary)
	for id := range backlog.Batches {
		if queue.ValidName(id) {
			found[id] = Summary{Batch: id, Published: true}
		}
	}
	err = conn.BatchRecords(ctx, func(b queue.Batch) error {
		found[b.ID] = Summary{
			Batch: b.ID, CreatedAt: b.CreatedAt, UpdatedAt: b.UpdatedAt,
			Total: b.Total, Accepted: b.Accepted, Published: b.Published, Finished: b.Finished,
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := make([]Summary, 0, len(found))
	for id, s := range found {
		s.Waiting = backlog.Batches[id]
		if _, s.Cancelled, err = cancelledAt(ctx, conn, id); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y Summary) int {
		if x.CreatedAt.IsZero() != y.CreatedAt.IsZero() {
			return cmp.Compare(y.CreatedAt.Unix(), x.CreatedAt.Unix())
		}
		return cmp.Or(x.CreatedAt.Compare(y.CreatedAt), strings.Compare(x.Batch, y.Batch))
	})
	return all, nil
}

// cancelledAt is when a batch was cancelled, if it was. A forged mark is none:
// nobody obeys it.
func cancelledAt(ctx context.Context, conn *queue.Conn, id string) (at time.Time, cancelled bool, err error) {
	mark, cancelled, err := conn.Cancelled(ctx, id)
	if errors.Is(err, queue.ErrUnreadable) {
		return time.Time{}, false, nil
	}
	return mark.At, cancelled, err
}
