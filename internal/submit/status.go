package submit

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// Status is how a batch stands.
type Status struct {
	Batch string `json:"batch"`
	// CreatedAt and UpdatedAt are those of its record, and zero without one.
	CreatedAt time.Time `json:"created_at,omitzero"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
	// Published is true once all requests are accepted by the server, and Total
	// is then their number. Accepted is how many are known to be so far.
	Published bool `json:"published"`
	Finished  bool `json:"finished"`
	Accepted  int  `json:"accepted"`
	Total     int  `json:"total"`
	Tally
	// Pending is how many requests have no final outcome, and Waiting how many
	// are in the queue or in a worker's hands.
	Pending int `json:"pending"`
	Waiting int `json:"waiting"`
	// Cancelled is when the batch was last cancelled. It hides the count of the
	// Tally, which is Tally.Cancelled.
	Cancelled *time.Time `json:"cancelled_at,omitempty"`
	// Retrying are the requests that did not end at their first attempt and are
	// tried again: RetryingTotal of them, here those with the most attempts.
	Retrying      []Retrying `json:"retrying"`
	RetryingTotal int        `json:"retrying_total"`
	// Generations are the retries that were asked for, the first one first.
	Generations []Generation `json:"generations"`
}

// Retrying is a request that is tried again, and why.
type Retrying struct {
	ID        string        `json:"id"`
	Reference string        `json:"reference"`
	Gen       int           `json:"gen"`
	Attempts  int           `json:"attempts"`
	Deaths    int           `json:"deaths"`
	InFlight  bool          `json:"in_flight"`
	Waited    queue.Seconds `json:"waited"`
	Class     string        `json:"class"`
	Error     string        `json:"error"`
	Worker    string        `json:"worker"`
	UpdatedAt time.Time     `json:"updated_at"`
}

// Generation is a retry: what was asked for once more.
type Generation struct {
	Gen      int       `json:"gen"`
	Requests int       `json:"requests"`
	At       time.Time `json:"at"`
	From     string    `json:"from"`
	Class    string    `json:"class"`
}

// Status reads how the batch stands.
func (b *Batch) Status(ctx context.Context) (Status, error) {
	record, recorded, err := b.record(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Batch: b.id, CreatedAt: record.CreatedAt, UpdatedAt: record.UpdatedAt,
		Published: record.Published || !recorded, Finished: record.Finished,
		Accepted: record.Accepted, Total: record.Total,
	}
	if at, cancelled, err := cancelledAt(ctx, b.conn, b.id); err != nil {
		return Status{}, err
	} else if cancelled {
		s.Cancelled = &at
	}
	if s.Generations, err = b.generations(ctx); err != nil {
		return Status{}, err
	}
	if s.Waiting, err = b.conn.Waiting(ctx, b.id); err != nil {
		return Status{}, err
	}
	// What has ended by the time the outcomes are read is tried no more, though
	// its entry may still be there.
	tried, err := b.tried(ctx)
	if err != nil {
		return Status{}, err
	}
	c := newCourse(b.conn, b.id)
	defer c.tally.Close() //nolint:errcheck // a file without a name
	if err := c.readNotes(ctx); err != nil {
		return Status{}, err
	}
	err = b.conn.Outcomes(ctx, b.id, func(o queue.Outcome) error {
		delete(tried, generationKey(o.ID, o.Gen))
		_, err := c.tally.add(o)
		return err
	})
	if err != nil {
		return Status{}, err
	}
	s.Tally = c.tally.counts()
	s.Pending = max(0, expected(record, s.Waiting, c.tally)-s.Done())
	s.RetryingTotal = len(tried)
	s.Retrying, err = b.retrying(ctx, tried)
	return s, err
}

// expected is how many requests of a batch there are, as far as is known.
func expected(record queue.Batch, waiting int, t *tally) int {
	if record.Published {
		return record.Total
	}
	return max(record.Accepted, t.counts().Done()+max(waiting, t.asked()))
}

// generations are the retries that were noted. One has several notes, and two
// of the same generation may have been asked for in two places.
func (b *Batch) generations(ctx context.Context) ([]Generation, error) {
	type retry struct {
		gen         int
		at          time.Time
		from, class string
	}
	requests := make(map[retry]int)
	err := b.conn.RetryNotes(ctx, b.id, func(n queue.RetryNote) error {
		requests[retry{n.Gen, n.At, n.From, n.Class}] += len(n.IDs)
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := []Generation{} // and no null for scripts
	for r, n := range requests {
		all = append(all, Generation{Gen: r.gen, Requests: n, At: r.at, From: r.from, Class: r.class})
	}
	slices.SortFunc(all, func(x, y Generation) int {
		return cmp.Or(cmp.Compare(x.Gen, y.Gen), x.At.Compare(y.At), strings.Compare(x.From, y.From))
	})
	return all, nil
}

// generationKey stands for one generation of a request.
func generationKey(id string, gen int) key { return keyOf(id + "." + strconv.Itoa(gen)) }

// tried are the requests that have an entry in the ledger.
func (b *Batch) tried(ctx context.Context) (map[key]struct{}, error) {
	tried := make(map[key]struct{})
	err := b.conn.LedgerOf(ctx, b.id, func(l queue.LedgerLine) error {
		tried[generationKey(l.ID, l.Gen)] = struct{}{}
		return nil
	})
	return tried, err
}

// maxRetrying is how many of the requests that are tried again a status names.
const maxRetrying = 1000

// retrying are those of the tried with the most attempts, as they are now.
func (b *Batch) retrying(ctx context.Context, tried map[key]struct{}) ([]Retrying, error) {
	most := fewestFirst{} // and no null for scripts
	if len(tried) == 0 {
		return most, nil
	}
	err := b.conn.LedgerOf(ctx, b.id, func(l queue.LedgerLine) error {
		k := generationKey(l.ID, l.Gen)
		if _, ok := tried[k]; !ok {
			return nil
		}
		delete(tried, k) // a line may come twice
		heap.Push(&most, Retrying{
			ID: l.ID, Reference: l.Entry.Reference, Gen: l.Gen,
			Attempts: l.Entry.Attempts, Deaths: l.Entry.Deaths, InFlight: l.Entry.InFlight, Waited: l.Entry.Waited,
			Class: l.Entry.Class, Error: l.Entry.Error, Worker: l.Entry.Worker, UpdatedAt: l.Entry.UpdatedAt,
		})
		if len(most) > maxRetrying {
			heap.Pop(&most)
		}
		return nil
	})
	slices.SortFunc(most, func(x, y Retrying) int { return compareAttempts(y, x) })
	return most, err
}

// compareAttempts orders by attempts, then by id.
func compareAttempts(x, y Retrying) int {
	return cmp.Or(cmp.Compare(x.Attempts, y.Attempts), cmp.Compare(x.Deaths, y.Deaths), strings.Compare(y.ID, x.ID))
}

// fewestFirst is a heap from which the one with the fewest attempts comes first.
type fewestFirst []Retrying

func (h fewestFirst) Len() int           { return len(h) }
func (h fewestFirst) Less(i, j int) bool { return compareAttempts(h[i], h[j]) < 0 }
func (h fewestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop are for package heap.
func (h *fewestFirst) Push(x any) { *h = append(*h, x.(Retrying)) } //nolint:forcetypeassert // only Retrying is pushed

// Pop takes the last one off.
func (h *fewestFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
