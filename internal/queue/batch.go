package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Batch is the record of one submission.
type Batch struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	// List is the SHA-256 of the image list, in hex; Options are what else
	// decides which requests it turns into. Both must be the same to go on.
	List    string       `json:"list"`
	Options BatchOptions `json:"options"`
	// Partition is the queue of the bulk lane that the requests are in.
	Partition int `json:"partition"`
	// Total is the number of requests, once all are published.
	Total int `json:"total"`
	// Published is true once all requests are accepted by the server.
	Published bool `json:"published"`
	// Accepted is the seq up to which the server is known to have accepted.
	Accepted int `json:"accepted"`
	// Finished is true once every request has its outcome and the report of
	// the batch was written.
	Finished  bool      `json:"finished"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// BatchOptions are the options of a submission that decide what is asked for.
type BatchOptions struct {
	Registry  string   `json:"registry,omitempty"`
	Project   string   `json:"project,omitempty"`
	Platforms []string `json:"platforms,omitempty"`
	Keys      []string `json:"keys,omitempty"`
	Format    string   `json:"format,omitempty"`
	Timeout   Seconds  `json:"timeout"`
}

// cancelKey marks a batch as cancelled. It is a key of its own, so that whoever
// cancels never meets the submitter's own writes.
func cancelKey(batch string) string { return batch + ".cancelled" }

// Batch reads the record of a batch, or ErrNone, or ErrUnreadable.
func (c *Conn) Batch(ctx context.Context, id string) (Batch, error) {
	stored, err := c.bucket(bucketBatches).get(ctx, id)
	if errors.Is(err, ErrNone) {
		return Batch{}, ErrNone
	}
	if err != nil {
		return Batch{}, fmt.Errorf("read batch %s: %w", id, err)
	}
	var b Batch
	if err := decodeRecord(stored.data, &b); err != nil {
		return Batch{}, fmt.Errorf("read batch %s: %w", id, err)
	}
	return b, nil
}

// ErrBatchExists says that a batch of that name is there already.
var ErrBatchExists = errors.New("a batch of that name exists")

// CreateBatch stores the record of a new batch, or returns ErrBatchExists.
func (c *Conn) CreateBatch(ctx context.Context, b Batch) error {
	data, err := encodeBatch(b)
	if err != nil {
		return err
	}
	_, err = c.bucket(bucketBatches).create(ctx, b.ID, data, 0)
	if errors.Is(err, errKeyExists) {
		return ErrBatchExists
	}
	if err != nil {
		return fmt.Errorf("create batch %s: %w", b.ID, err)
	}
	return nil
}

// WriteBatch replaces the record of a batch. Only its submitter writes it.
func (c *Conn) WriteBatch(ctx context.Context, b Batch) error {
	data, err := encodeBatch(b)
	if err != nil {
		return err
	}
	if err := c.bucket(bucketBatches).put(ctx, b.ID, data); err != nil {
		return fmt.Errorf("write batch %s: %w", b.ID, err)
	}
	return nil
}

func encodeBatch(b Batch) ([]byte, error) {
	b.Version = version
	b.UpdatedAt = time.Now().UTC()
	data, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode batch %s: %w", b.ID, err)
	}
	return data, nil
}

// Batches are the names of all batches there are records of, in order.
func (c *Conn) Batches(ctx context.Context) ([]string, error) {
	ctx, cancel := ask(ctx)
	defer cancel()
	stream, err := c.js.Stream(ctx, "KV_"+bucketBatches)
	if err != nil {
		return nil, fmt.Errorf("list batches: %w", missing(err))
	}
	const prefix = "$KV." + bucketBatches + "."
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, fmt.Errorf("list batches: %w", missing(err))
	}
	var ids []string
	for subject := range info.State.Subjects {
		if key := strings.TrimPrefix(subject, prefix); ValidName(key) {
			ids = append(ids, key)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Cancelled reports whether a batch was cancelled. A forged mark of that is ErrUnreadable.
func (c *Conn) Cancelled(ctx context.Context, batch string) (bool, error) {
	_, err := c.bucket(bucketBatches).get(ctx, cancelKey(batch))
	if errors.Is(err, ErrNone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask whether batch %s is cancelled: %w", batch, err)
	}
	return true, nil
}

// Cancel marks a batch as cancelled: its requests end as such when their turn comes.
func (c *Conn) Cancel(ctx context.Context, batch string) error {
	at := time.Now().UTC().Format(time.RFC3339)
	if err := c.bucket(bucketBatches).put(ctx, cancelKey(batch), []byte(at)); err != nil {
		return fmt.Errorf("cancel batch %s: %w", batch, err)
	}
	return nil
}
