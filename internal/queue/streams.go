package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What the server reserves for each stream on its disk, unless Unlimited:
// 1,000,000 outcomes of three digests are about 1.4 GB.
const (
	requestBytes = 2 << 30
	recordBytes  = 4 << 30
	bucketBytes  = 256 << 20
)

const (
	duplicateWindow = 10 * time.Minute
	ledgerAge       = 7 * 24 * time.Hour
	workersAge      = 15 * time.Second
	// markerAge is how long the mark of a removed key stays in its bucket: without
	// an age the marks of all images ever signed would fill it.
	markerAge = time.Second
)

// codeSubjectsOverlap is what the server answers when another stream has the
// subjects of one to be made.
const codeSubjectsOverlap jetstream.ErrorCode = 10065

// Consumer names: one for each partition of the bulk lane, and the event lane's.
const eventConsumer = "event"

func bulkConsumer(partition int) string { return "bulk-" + partitionName(partition) }

// ConflictError says that a stream on the server is laid out in a way that
// breaks a promise of this queue.
type ConflictError struct {
	Stream     string
	Difference string
	// Remedy is what to do about it.
	Remedy string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("stream %s on the NATS server is not as it must be: %s; %s", e.Stream, e.Difference, e.Remedy)
}

// strangersRemedy is for a stream that this queue would never have made so.
const strangersRemedy = "it was made by something else: move it away, or use another NATS account"

// Setup makes the streams, consumers and buckets that are missing. Streams and
// buckets that are there stay as they are, and are a *ConflictError where they
// differ in more than limits; so are more partitions than Options.Partitions.
// Consumers take over what the options say. Setup may run at any time and from
// many processes at once.
func (c *Conn) Setup(ctx context.Context) error {
	for _, want := range c.options.streams() {
		if err := c.setupStream(ctx, want); err != nil {
			return err
		}
	}
	for _, want := range c.options.buckets() {
		if err := c.setupBucket(ctx, want); err != nil {
			return err
		}
	}
	if err := c.checkPartitions(ctx); err != nil {
		return err
	}
	for _, want := range c.options.consumers() {
		if _, err := c.js.CreateOrUpdateConsumer(ctx, streamRequests, want); err != nil {
			return fmt.Errorf("set up consumer %s of %s: %w", want.Durable, streamRequests, err)
		}
	}
	return nil
}

func (c *Conn) setupStream(ctx context.Context, want jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, outagePatience)
	defer cancel()
	_, err := c.js.CreateStream(ctx, want)
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api) && api.ErrorCode == codeSubjectsOverlap:
		return &ConflictError{
			Stream: want.Name, Remedy: strangersRemedy,
			Difference: fmt.Sprintf("another stream takes the subjects %v", want.Subjects),
		}
	case !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		return fmt.Errorf("set up stream %s: %w", want.Name, err)
	}
	// It is there with other settings: those of an operator, or a stranger's.
	return c.compare(ctx, want.Name, func(have jetstream.StreamConfig) string { return streamDifference(have, want) })
}

func (c *Conn) setupBucket(ctx context.Context, want jetstream.KeyValueConfig) error {
	ctx, cancel := context.WithTimeout(ctx, outagePatience)
	defer cancel()
	_, err := c.js.CreateKeyValue(ctx, want)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, jetstream.ErrBucketExists):
		return fmt.Errorf("set up bucket %s: %w", want.Bucket, err)
	}
	return c.compare(ctx, "KV_"+want.Bucket, func(have jetstream.StreamConfig) string { return bucketDifference(have, want) })
}

func (c *Conn) compare(ctx context.Context, name string, difference func(have jetstream.StreamConfig) string) error {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", name, err)
	}
	if d := difference(stream.CachedInfo().Config); d != "" {
		return &ConflictError{Stream: name, Difference: d, Remedy: strangersRemedy}
	}
	return nil
}

// checkPartitions refuses to serve fewer partitions than there are: submitters
// would go on to fill the others.
func (c *Conn) checkPartitions(ctx context.Context) error {
	have, err := c.servedPartitions(ctx)
	if err != nil {
		return fmt.Errorf("set up the partitions of %s: %w", streamRequests, err)
	}
	if len(have) == 0 || have[len(have)-1] < c.options.Partitions {
		return nil
	}
	n := have[len(have)-1] + 1
	return &ConflictError{
		Stream:     streamRequests,
		Difference: fmt.Sprintf("it has %d partitions, and this process is to serve %d", n, c.options.Partitions),
		Remedy:     fmt.Sprintf("serve %d, or delete the consumers from %s on once they are empty", n, bulkConsumer(c.options.Partitions)),
	}
}

// streamDifference names the first setting on which a promise rests and that
// is not as it must be.
func streamDifference(have, want jetstream.StreamConfig) string {
	// The server writes "no limit" as -1.
	single, wantSingle := have.MaxMsgsPerSubject == 1 && have.DiscardNewPerSubject, want.MaxMsgsPerSubject == 1
	switch {
	case fmt.Sprint(have.Subjects) != fmt.Sprint(want.Subjects):
		return fmt.Sprintf("its subjects are %v, not %v", have.Subjects, want.Subjects)
	case have.Retention != want.Retention:
		return fmt.Sprintf("its retention is %s, not %s", have.Retention, want.Retention)
	case have.Discard != want.Discard:
		return fmt.Sprintf("it discards %s, not %s", have.Discard, want.Discard)
	case wantSingle && !single:
		return "it does not hold each subject to one message and refuse a second"
	case !wantSingle && have.MaxMsgsPerSubject > 0:
		return fmt.Sprintf("it holds each subject to %d messages", have.MaxMsgsPerSubject)
	case want.MaxAge == 0 && have.MaxAge != 0:
		return fmt.Sprintf("it forgets messages after %s", have.MaxAge)
	case have.Duplicates < want.Duplicates:
		return fmt.Sprintf("it knows duplicates for %s, not %s", have.Duplicates, want.Duplicates)
	case have.Storage != want.Storage:
		return fmt.Sprintf("its storage is %s, not %s", have.Storage, want.Storage)
	case !have.AllowDirect && want.AllowDirect:
		return "it does not allow direct get"
	}
	return ""
}

// bucketDifference is the same for the stream of a bucket.
func bucketDifference(have jetstream.StreamConfig, want jetstream.KeyValueConfig) string {
	subjects := []string{"$KV." + want.Bucket + ".>"}
	switch {
	case fmt.Sprint(have.Subjects) != fmt.Sprint(subjects):
		return fmt.Sprintf("its subjects are %v, not %v", have.Subjects, subjects)
	case want.TTL == 0 && have.MaxAge != 0:
		return fmt.Sprintf("it forgets keys after %s", have.MaxAge)
	case want.LimitMarkerTTL > 0 && !have.AllowMsgTTL:
		return "its keys cannot end by themselves (allow_msg_ttl)"
	case have.Storage != want.Storage:
		return fmt.Sprintf("its storage is %s, not %s", have.Storage, want.Storage)
	case !have.AllowRollup:
		return "its keys cannot be purged (allow_rollup_hdrs)"
	case !have.AllowDirect:
		return "it does not allow direct get"
	}
	return ""
}

func (o Options) streams() []jetstream.StreamConfig {
	record := func(name, subjects, description string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name:        name,
			Description: description,
			Subjects:    []string{subjects},
			Storage:     jetstream.FileStorage,
			// Together these make "exactly one record" a property of the
			// server: a second one on the same subject is refused.
			MaxMsgsPerSubject:    1,
			Discard:              jetstream.DiscardNew,
			DiscardNewPerSubject: true,
			MaxAge:               o.Retention,
			MaxBytes:             o.bytes(recordBytes),
			AllowDirect:          true,
		}
	}
	return []jetstream.StreamConfig{
		{
			Name:        streamRequests,
			Description: "images to sign",
			Subjects:    []string{"sign.request.>"},
			Storage:     jetstream.FileStorage,
			Retention:   jetstream.WorkQueuePolicy,
			Discard:     jetstream.DiscardNew,
			MaxBytes:    o.bytes(requestBytes),
			Duplicates:  duplicateWindow,
		},
		record(streamOutcomes, "sign.outcome.>", "the one outcome of each request"),
		record(streamDead, "sign.dead.>", "requests that could not be signed, and why"),
	}
}

func (o Options) buckets() []jetstream.KeyValueConfig {
	bucket := func(name, description string, age time.Duration) jetstream.KeyValueConfig {
		return jetstream.KeyValueConfig{
			Bucket:      name,
			Description: description,
			TTL:         age,
			MaxBytes:    o.bytes(bucketBytes),
			Storage:     jetstream.FileStorage,
		}
	}
	// Keys and marks of removal with a life of their own need a bucket that keeps
	// marks of the ends it brings about itself.
	locks, ledger := bucket(bucketLocks, "who is writing an attachment", 0), bucket(bucketLedger, "attempts and deaths", ledgerAge)
	locks.LimitMarkerTTL, ledger.LimitMarkerTTL = markerAge, markerAge
	return []jetstream.KeyValueConfig{
		bucket(bucketBatches, "submissions", o.Retention),
		ledger,
		locks,
		bucket(bucketWorkers, "live workers", workersAge),
		bucket(bucketControl, "what an operator has paused", 0),
	}
}

// bytes is a byte limit of a stream, or none (-1).
func (o Options) bytes(limit int64) int64 {
	if o.Unlimited {
		return -1
	}
	return limit
}

func (o Options) consumers() []jetstream.ConsumerConfig {
	consumer := func(name, filter string) jetstream.ConsumerConfig {
		return jetstream.ConsumerConfig{
			Durable:       name,
			FilterSubject: filter,
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       o.AckWait,
			// The default of 1000 counts requests that wait for their retry:
			// one dead registry would stop the lane for everybody.
			MaxAckPending: -1,
			// The ledger decides when a request has had enough.
			MaxDeliver: -1,
		}
	}
	consumers := make([]jetstream.ConsumerConfig, 0, o.Partitions+1)
	for p := range o.Partitions {
		consumers = append(consumers, consumer(bulkConsumer(p), "sign.request.bulk."+partitionName(p)+".*"))
	}
	return append(consumers, consumer(eventConsumer, "sign.request.event.*.*"))
}
