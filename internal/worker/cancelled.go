package worker

import (
	"context"
	"sync"
	"time"
)

// cancellationAge is how old an answer may be: it bounds how long a cancelled
// batch goes on.
const cancellationAge = time.Second

// maxCancellations bounds the batches remembered at once.
const maxCancellations = 1024

// cancellations remembers which batches are cancelled, so that the queue is
// asked once a second and batch and not once an image.
type cancellations struct {
	records records

	mu    sync.Mutex
	known map[string]cancellation
}

type cancellation struct {
	cancelled bool
	asked     time.Time
}

func newCancellations(r records) *cancellations {
	return &cancellations{records: r, known: make(map[string]cancellation)}
}

// is reports whether a batch is cancelled. A batch that was stays so.
func (c *cancellations) is(ctx context.Context, batch string) (bool, error) {
	c.mu.Lock()
	known, ok := c.known[batch]
	if ok && (known.cancelled || time.Since(known.asked) < cancellationAge) {
		c.mu.Unlock()
		return known.cancelled, nil
	}
	if ok {
		// Others go on with the old answer while this one is asked for.
		c.remember(batch, cancellation{asked: time.Now()})
	}
	c.mu.Unlock()

	call, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	cancelled, err := c.records.Cancelled(call, batch)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remember(batch, cancellation{cancelled: cancelled, asked: time.Now()})
	return cancelled, nil
}

// remember needs mu.
func (c *cancellations) remember(batch string, value cancellation) {
	if len(c.known) >= maxCancellations {
		clear(c.known)
	}
	c.known[batch] = value
}
