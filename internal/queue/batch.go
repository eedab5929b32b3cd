package queue

import (
	"bytes"
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
	// Signing is what else decides what the signatures are.
	Signing SigningOptions `json:"signing,omitzero"`
	Timeout Seconds        `json:"timeout"`
}

// SigningOptions decide what signatures are, beside their keys and their format.
// Where the order of a list means nothing, it is that of its texts.
type SigningOptions struct {
	Identities  []string `json:"identities,omitempty"`
	Annotations []string `json:"annotations,omitempty"`
	// Replaced are the fingerprints of keys whose signatures go.
	Replaced   []string `json:"replaced,omitempty"`
	Timestamps bool     `json:"timestamps,omitempty"`
	SkipIndex  bool     `json:"skip_index,omitempty"`
	Recursive  bool     `json:"recursive,omitempty"`
}

// Equal reports whether both decide the same.
func (o SigningOptions) Equal(other SigningOptions) bool {
	return slices.Equal(o.Identities, other.Identities) && slices.Equal(o.Annotations, other.Annotations) &&
		slices.Equal(o.Replaced, other.Replaced) &&
		o.Timestamps == other.Timestamps && o.SkipIndex == other.SkipIndex && o.Recursive == other.Recursive
}

// Batch reads the record of a batch, or ErrNone, or ErrUnreadable.
func (c *Conn) Batch(ctx context.Context, id string) (Batch, error) {
	stored, err := insist(ctx, c, func() (value, error) { return c.bucket(c.names.batches).get(ctx, id) })
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
	bucket, again := c.bucket(c.names.batches), false
	_, err = insist(ctx, c, func() (uint64, error) {
		revision, err := bucket.create(ctx, b.ID, data, 0)
		if again && errors.Is(err, errKeyExists) {
			// The answer to the first try was lost, or the batch is another's.
			if stored, err := bucket.get(ctx, b.ID); err == nil && bytes.Equal(stored.data, data) {
				return stored.revision, nil
			}
		}
		again = true
		return revision, err
	})
	if errors.Is(err, errKeyExists) {
		return ErrBatchExists
	}
	if err != nil {
		return fmt.Errorf("create batch %s: %w", b.ID, err)
	}
	return nil
}

// WriteBatch replaces the record of a batch. What another process has written
// meanwhile of how far the publishing came stays, where that is further.
func (c *Conn) WriteBatch(ctx context.Context, b Batch) error {
	batches := c.bucket(c.names.batches)
	for {
		stored, err := batches.get(ctx, b.ID)
		if err != nil && !errors.Is(err, ErrNone) {
			return fmt.Errorf("write batch %s: %w", b.ID, err)
		}
		if err == nil {
			var have Batch
			if err := decodeRecord(stored.data, &have); err != nil {
				return fmt.Errorf("write batch %s: %w", b.ID, err)
			}
			b = b.noFurtherBackThan(have)
		}
		data, err := encodeBatch(b)
		if err != nil {
			return err
		}
		_, err = batches.update(ctx, b.ID, data, 0, stored.revision)
		if isWrongSequence(err) {
			continue // somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("write batch %s: %w", b.ID, err)
		}
		return nil
	}
}

// noFurtherBackThan is b with the progress of publishing that another record of
// the batch has.
func (b Batch) noFurtherBackThan(have Batch) Batch {
	b.Accepted = max(b.Accepted, have.Accepted)
	if have.Published && !b.Published {
		b.Published, b.Total = true, have.Total
	}
	return b
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
	stream, err := c.js.Stream(ctx, "KV_"+c.names.batches)
	if err != nil {
		return nil, fmt.Errorf("list batches: %w", c.missing(err))
	}
	prefix := "$KV." + c.names.batches + "."
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, fmt.Errorf("list batches: %w", c.missing(err))
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

// BatchRecords calls each for the record of every batch there is. A record that
// cannot be read is left out.
func (c *Conn) BatchRecords(ctx context.Context, each func(Batch) error) error {
	return scanBucket(ctx, c, c.names.batches, "*", func(key string, b Batch) error {
		if b.ID != key {
			return nil // under somebody else's name
		}
		return each(b)
	})
}
