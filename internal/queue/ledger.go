package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Entry is what is known of a request that did not end at its first delivery.
type Entry struct {
	Version int `json:"version"`
	// Attempts is how often signing was tried and failed.
	Attempts int `json:"attempts"`
	// Deaths is how often a worker had the request and was not heard of again.
	Deaths int `json:"deaths"`
	// InFlight is true from a redelivery on until the worker that has it gives
	// it back: an entry still in flight when the request comes again is a death.
	InFlight bool `json:"in_flight"`
	// Waited is the time spent waiting for turns so far, across deliveries.
	Waited Seconds `json:"waited,omitempty"`
	// Reference is what the request is about, for people.
	Reference string `json:"reference,omitempty"`
	// Class and Error are those of the last failure.
	Class     string    `json:"class,omitempty"`
	Error     string    `json:"error,omitempty"`
	Worker    string    `json:"worker"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Ledger reads the entry of a request's generation; ok is false when it has none.
// One that cannot be read is ErrUnreadable.
func (c *Conn) Ledger(ctx context.Context, r Request) (e Entry, ok bool, err error) {
	stored, err := c.bucket(c.names.ledger).get(ctx, recordKey(r.Batch, r.ID, r.Gen))
	if errors.Is(err, ErrNone) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("read the ledger of %s: %w", r.ID, err)
	}
	if err := decodeRecord(stored.data, &e); err != nil {
		return Entry{}, false, fmt.Errorf("read the ledger of %s: %w", r.ID, err)
	}
	return e, true, nil
}

// LedgerLine is an entry and whose it is.
type LedgerLine struct {
	ID    string
	Gen   int
	Entry Entry
}

// LedgerOf calls each for every entry of a batch: what is known of its requests
// that did not end at once. One that cannot be read is left out.
func (c *Conn) LedgerOf(ctx context.Context, batch string, each func(LedgerLine) error) error {
	if !ValidName(batch) {
		return fmt.Errorf("read the ledger of batch %q: it is not a name", batch)
	}
	return scanBucket(ctx, c, c.names.ledger, batch+".*.*", func(key string, e Entry) error {
		id, gen, _ := strings.Cut(strings.TrimPrefix(key, batch+"."), ".")
		n, err := strconv.Atoi(gen)
		if err != nil {
			return nil //nolint:nilerr // a stranger's key
		}
		return each(LedgerLine{ID: id, Gen: n, Entry: e})
	})
}

// WriteLedger stores the entry of a request's generation. Only the worker that
// has the request writes it.
func (c *Conn) WriteLedger(ctx context.Context, r Request, e Entry) error {
	e.Version = version
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode ledger entry: %w", err)
	}
	if err := c.bucket(c.names.ledger).put(ctx, recordKey(r.Batch, r.ID, r.Gen), data); err != nil {
		return fmt.Errorf("write the ledger of %s: %w", r.ID, err)
	}
	return nil
}

// ClearLedger removes the entry of a request that has ended.
func (c *Conn) ClearLedger(ctx context.Context, r Request) error {
	if err := c.bucket(c.names.ledger).purge(ctx, recordKey(r.Batch, r.ID, r.Gen), 0); err != nil {
		return fmt.Errorf("clear the ledger of %s: %w", r.ID, err)
	}
	return nil
}
