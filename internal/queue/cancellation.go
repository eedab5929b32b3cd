package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Cancellation is the mark of a cancelled batch. It covers what was asked for
// until then: requests of a later generation run.
type Cancellation struct {
	Version int `json:"version"`
	// Gen is the highest generation that is cancelled.
	Gen int       `json:"gen"`
	At  time.Time `json:"at"`
}

// Covers reports whether a request of a generation is cancelled.
func (c Cancellation) Covers(gen int) bool { return gen <= c.Gen }

// cancelKey marks a batch as cancelled. It is a key of its own, so that whoever
// cancels never meets the submitter's own writes.
func cancelKey(batch string) string { return batch + ".cancelled" }

// Cancelled reads the mark of a cancelled batch; ok is false when it has none. A
// forged mark is ErrUnreadable.
func (c *Conn) Cancelled(ctx context.Context, batch string) (mark Cancellation, ok bool, err error) {
	mark, _, err = c.cancellation(ctx, batch)
	if errors.Is(err, ErrNone) {
		return Cancellation{}, false, nil
	}
	if err != nil {
		return Cancellation{}, false, fmt.Errorf("ask whether batch %s is cancelled: %w", batch, err)
	}
	return mark, true, nil
}

// Cancel marks a batch as cancelled up to a generation: requests end as such
// when their turn comes. A mark that covers more stays.
func (c *Conn) Cancel(ctx context.Context, batch string, gen int) error {
	for {
		have, revision, err := c.cancellation(ctx, batch)
		switch {
		case err == nil && have.Covers(gen):
			return nil
		case err != nil && !errors.Is(err, ErrNone) && !errors.Is(err, ErrUnreadable):
			return fmt.Errorf("cancel batch %s: %w", batch, err)
		}
		data, err := json.Marshal(Cancellation{Version: version, Gen: gen, At: time.Now().UTC()})
		if err != nil {
			return fmt.Errorf("encode cancellation: %w", err)
		}
		_, err = c.bucket(c.names.batches).update(ctx, cancelKey(batch), data, 0, revision)
		if isWrongSequence(err) {
			continue // somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("cancel batch %s: %w", batch, err)
		}
		return nil
	}
}

func (c *Conn) cancellation(ctx context.Context, batch string) (Cancellation, uint64, error) {
	stored, err := c.bucket(c.names.batches).get(ctx, cancelKey(batch))
	if err != nil {
		return Cancellation{}, stored.revision, err
	}
	var mark Cancellation
	if err := decodeRecord(stored.data, &mark); err != nil {
		return Cancellation{}, stored.revision, err
	}
	return mark, stored.revision, nil
}
