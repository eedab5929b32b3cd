package queue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// RetryNote says that requests are asked for once more, as a new generation. It
// is written before they are published, so that whoever counts outcomes takes
// them for pending and no longer for failed.
type RetryNote struct {
	Version int    `json:"version"`
	Batch   string `json:"batch"`
	// Gen is the new generation of the requests with these IDs.
	Gen int      `json:"gen"`
	IDs []string `json:"ids"`
	// Class is the class of failure that was asked for; none means any.
	Class string `json:"class,omitempty"`
	// From names the machine it was asked for at.
	From string    `json:"from,omitempty"`
	At   time.Time `json:"at"`
}

// retryIDsAtMost is how many ids one piece of a note has at most, and retryIDBytes
// what one takes in it.
const (
	retryIDsAtMost = 8192
	retryIDBytes   = 72
)

// NoteRetry stores a note, in pieces where it is longer than a message may be.
func (c *Conn) NoteRetry(ctx context.Context, n RetryNote) error {
	n.Version = version
	ids := n.IDs
	piece := max(1, min(retryIDsAtMost, int(c.nc.MaxPayload()/2/retryIDBytes)))
	for len(ids) > 0 {
		n.IDs = ids[:min(piece, len(ids))]
		ids = ids[len(n.IDs):]
		data, err := json.Marshal(n)
		if err != nil {
			return fmt.Errorf("encode note of a retry: %w", err)
		}
		key := retryKey(n.Batch, strconv.Itoa(n.Gen)) + "." + strings.ToLower(rand.Text())
		if _, err := c.bucket(c.names.batches).create(ctx, key, data, 0); err != nil {
			return fmt.Errorf("note the retry of batch %s: %w", n.Batch, err)
		}
	}
	return nil
}

func retryKey(batch, gen string) string { return batch + ".retry." + gen }

// RetryNotes calls each for every note of a batch. One that cannot be read is
// left out.
func (c *Conn) RetryNotes(ctx context.Context, batch string, each func(RetryNote) error) error {
	return scanBucket(ctx, c, c.names.batches, retryKey(batch, "*")+".*", func(key string, n RetryNote) error {
		if n.Batch != batch || !strings.HasPrefix(key, retryKey(batch, strconv.Itoa(n.Gen))+".") {
			return nil // under somebody else's name
		}
		return each(n)
	})
}
