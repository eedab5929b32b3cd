package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// codeSubjectsOverlap is what the server answers when another stream has the
// subjects of one to be made.
const codeSubjectsOverlap jetstream.ErrorCode = 10065

// What the server answers when it cannot reserve what a stream may take, or has
// too few peers for its replicas.
const (
	codeStorageExceeded    jetstream.ErrorCode = 10047
	codeNoPeers            jetstream.ErrorCode = 10005
	codeReplicasAlone      jetstream.ErrorCode = 10074
	codeAccountStorageFull jetstream.ErrorCode = 10028
)

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

// overlapRemedy is for a stream whose subjects another one has: those of a bucket
// follow from its name.
func overlapRemedy(stream string) string {
	option := "subject-prefix"
	if strings.HasPrefix(stream, "KV_") {
		option = "stream-prefix"
	}
	return fmt.Sprintf("choose another %s, move that stream away, or use another NATS account", option)
}

// Change is something that Setup did.
type Change struct {
	Name string `json:"name"` // as "stream SIGN_REQUESTS"
	What string `json:"what"` // as "made", or "max_age 1h0m0s to 2h0m0s"
}

// Setup makes the streams, consumers and buckets that are missing, gives those
// that are there the limits, ages, replicas and waits of the options, and says
// what it changed. What differs otherwise is a *ConflictError, and so are more
// partitions than Options.Partitions. Setup may run at any time and from many
// processes at once; it needs the permissions of the operator.
func (c *Conn) Setup(ctx context.Context) ([]Change, error) {
	var changes []Change
	for _, want := range c.options.streams() {
		change, err := c.setupStream(ctx, want)
		if err != nil {
			return changes, err
		}
		changes = append(changes, change...)
	}
	if err := c.checkPartitions(ctx); err != nil {
		return changes, err
	}
	for _, want := range c.options.consumers() {
		change, err := c.setupConsumer(ctx, want)
		if err != nil {
			return changes, err
		}
		changes = append(changes, change...)
	}
	return changes, nil
}

// Ensure sees to it that the streams, consumers and buckets are there: it makes
// those that are missing, if the server lets it, and changes nothing. From then
// on Partitions and AckWait are those of the server. What differs in more than
// limits is a *ConflictError.
func (c *Conn) Ensure(ctx context.Context) error {
	for _, want := range c.options.streams() {
		have, err := c.streamConfig(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			err = c.makeStream(ctx, want)
		case err == nil:
			err = conflict(have, want)
		}
		if err != nil {
			return unlessDenied(err)
		}
	}
	return unlessDenied(c.ensureConsumers(ctx))
}

// unlessDenied says what to do where the streams are missing and this user may
// not make them.
func unlessDenied(err error) error {
	var denied *DeniedError
	if errors.As(err, &denied) && strings.HasPrefix(denied.Subject, "$JS.API.") && strings.Contains(denied.Subject, ".CREATE.") {
		return fmt.Errorf("%w (%w)", ErrNotSetUp, denied)
	}
	return err
}

func (c *Conn) setupStream(ctx context.Context, want jetstream.StreamConfig) ([]Change, error) {
	have, err := c.streamConfig(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return made(streamTitle(want.Name)), c.makeStream(ctx, want)
	}
	if err != nil {
		return nil, err
	}
	if err := conflict(have, want); err != nil {
		return nil, err
	}
	adjusted, changes := adjust(have, want)
	if len(changes) == 0 {
		return nil, nil
	}
	ctx, done := c.command(ctx, outagePatience, "$JS.API.STREAM.UPDATE."+want.Name)
	defer done()
	if _, err := c.js.UpdateStream(ctx, adjusted); err != nil {
		return nil, fmt.Errorf("set up stream %s: %w", want.Name, advise(refused(ctx, err)))
	}
	return changes, nil
}

func made(name string) []Change { return []Change{{Name: name, What: "made"}} }

func streamTitle(name string) string {
	if bucket, ok := strings.CutPrefix(name, "KV_"); ok {
		return "bucket " + bucket
	}
	return "stream " + name
}

func (c *Conn) streamConfig(ctx context.Context, name string) (jetstream.StreamConfig, error) {
	return insist(ctx, c, func() (jetstream.StreamConfig, error) {
		ctx, done := c.command(ctx, answerPatience, "$JS.API.STREAM.INFO."+name)
		defer done()
		stream, err := c.js.Stream(ctx, name)
		if err != nil {
			return jetstream.StreamConfig{}, fmt.Errorf("look at stream %s: %w", name, refused(ctx, err))
		}
		return stream.CachedInfo().Config, nil
	})
}

func (c *Conn) makeStream(ctx context.Context, want jetstream.StreamConfig) error {
	ctx, done := c.command(ctx, outagePatience, "$JS.API.STREAM.CREATE."+want.Name)
	defer done()
	_, err := c.js.CreateStream(ctx, want)
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api) && api.ErrorCode == codeSubjectsOverlap:
		return &ConflictError{
			Stream: want.Name, Remedy: overlapRemedy(want.Name),
			Difference: fmt.Sprintf("another stream takes the subjects %v", want.Subjects),
		}
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		// Another process has just made it, with limits of its own.
		have, err := c.streamConfig(ctx, want.Name)
		if err != nil {
			return err
		}
		return conflict(have, want)
	}
	return fmt.Errorf("set up stream %s: %w", want.Name, advise(refused(ctx, err)))
}

// advise adds what to do about a server that cannot hold a stream.
func advise(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case codeStorageExceeded, codeAccountStorageFull:
		return fmt.Errorf("%w: the server reserves the byte limits on its disk: give lower ones (request-bytes, record-bytes, bucket-bytes), or raise max_file_store on the server", err)
	case codeNoPeers, codeReplicasAlone:
		return fmt.Errorf("%w: give as many replicas as the cluster has servers, or fewer", err)
	}
	return err
}

// adjust returns a stream with the limits that are wanted, and how they differ
// from those it has.
func adjust(have, want jetstream.StreamConfig) (jetstream.StreamConfig, []Change) {
	var changes []Change
	note := func(what string, from, to any) {
		changes = append(changes, Change{Name: streamTitle(have.Name), What: fmt.Sprintf("%s %v to %v", what, from, to)})
	}
	if have.MaxAge != want.MaxAge {
		note("max_age", have.MaxAge, want.MaxAge)
		have.MaxAge = want.MaxAge
	}
	if have.MaxBytes != want.MaxBytes {
		note("max_bytes", have.MaxBytes, want.MaxBytes)
		have.MaxBytes = want.MaxBytes
	}
	if have.Replicas != want.Replicas {
		note("num_replicas", have.Replicas, want.Replicas)
		have.Replicas = want.Replicas
	}
	if have.Duplicates != want.Duplicates {
		note("duplicate_window", have.Duplicates, want.Duplicates)
		have.Duplicates = want.Duplicates
	}
	return have, changes
}

// conflict is a *ConflictError about the first setting on which a promise rests
// and that is not as it must be.
func conflict(have, want jetstream.StreamConfig) error {
	d := difference(have, want)
	if d == "" {
		return nil
	}
	remedy := strangersRemedy
	if !slices.Equal(have.Subjects, want.Subjects) {
		remedy = "give the subject-prefix that it was made with, choose another stream-prefix, or use another NATS account"
	}
	return &ConflictError{Stream: want.Name, Difference: d, Remedy: remedy}
}

func difference(have, want jetstream.StreamConfig) string {
	// The server writes "no limit" as -1.
	limited := func(n int64) int64 { return max(0, n) }
	switch {
	case !slices.Equal(have.Subjects, want.Subjects):
		return fmt.Sprintf("its subjects are %v, not %v", have.Subjects, want.Subjects)
	case have.Retention != want.Retention:
		return fmt.Sprintf("its retention is %s, not %s", have.Retention, want.Retention)
	case have.Discard != want.Discard:
		return fmt.Sprintf("it discards %s, not %s", have.Discard, want.Discard)
	case limited(have.MaxMsgsPerSubject) != limited(want.MaxMsgsPerSubject):
		return fmt.Sprintf("it holds %d messages of each subject, not %d", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	case want.DiscardNewPerSubject && !have.DiscardNewPerSubject:
		return "it does not refuse a second message of a subject (discard_new_per_subject)"
	case want.MaxAge == 0 && have.MaxAge != 0:
		return fmt.Sprintf("it forgets messages after %s", have.MaxAge)
	case limited(have.MaxMsgs) > 0:
		return fmt.Sprintf("it holds %d messages at most", have.MaxMsgs)
	case have.Storage != want.Storage:
		return fmt.Sprintf("its storage is %s, not %s", have.Storage, want.Storage)
	case want.AllowMsgTTL && !have.AllowMsgTTL:
		return "its keys cannot end by themselves (allow_msg_ttl)"
	case want.AllowRollup && !have.AllowRollup:
		return "its keys cannot be purged (allow_rollup_hdrs)"
	case want.AllowDirect && !have.AllowDirect:
		return "it does not allow direct get"
	}
	return ""
}

// checkPartitions refuses to lay out fewer partitions than there are: submitters
// would go on to fill the others.
func (c *Conn) checkPartitions(ctx context.Context) error {
	have, err := c.servedPartitions(ctx)
	if err != nil {
		return fmt.Errorf("set up the partitions of %s: %w", c.names.requests, err)
	}
	if len(have) == 0 || have[len(have)-1] < c.options.Partitions {
		return nil
	}
	n := have[len(have)-1] + 1
	return &ConflictError{
		Stream:     c.names.requests,
		Difference: fmt.Sprintf("it has %d partitions, and %d are asked for", n, c.options.Partitions),
		Remedy:     fmt.Sprintf("ask for %d (partitions), or delete the consumers from %s on once they are empty", n, bulkConsumer(c.options.Partitions)),
	}
}

func (c *Conn) setupConsumer(ctx context.Context, want jetstream.ConsumerConfig) ([]Change, error) {
	title := "consumer " + want.Durable
	have, err := c.consumerConfig(ctx, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return made(title), c.makeConsumer(ctx, want)
	}
	if err != nil {
		return nil, err
	}
	if have.FilterSubject != want.FilterSubject || have.AckPolicy != want.AckPolicy {
		return nil, &ConflictError{
			Stream: c.names.requests, Remedy: "delete that consumer, and set up again",
			Difference: fmt.Sprintf("its consumer %s takes %s with ack policy %s, not %s with %s", want.Durable, have.FilterSubject, have.AckPolicy, want.FilterSubject, want.AckPolicy),
		}
	}
	if have.AckWait == want.AckWait && have.MaxAckPending == want.MaxAckPending && have.MaxDeliver == want.MaxDeliver {
		return nil, nil
	}
	what := fmt.Sprintf("ack_wait %s to %s", have.AckWait, want.AckWait)
	if have.AckWait == want.AckWait {
		what = "max_ack_pending and max_deliver to no limit"
	}
	return []Change{{Name: title, What: what}}, c.makeConsumer(ctx, want)
}

func (c *Conn) consumerConfig(ctx context.Context, name string) (jetstream.ConsumerConfig, error) {
	return insist(ctx, c, func() (jetstream.ConsumerConfig, error) {
		ctx, done := c.command(ctx, answerPatience, "$JS.API.CONSUMER.INFO."+c.names.requests+"."+name)
		defer done()
		consumer, err := c.js.Consumer(ctx, c.names.requests, name)
		if err != nil {
			return jetstream.ConsumerConfig{}, fmt.Errorf("look at consumer %s: %w", name, refused(ctx, err))
		}
		return consumer.CachedInfo().Config, nil
	})
}

func (c *Conn) makeConsumer(ctx context.Context, want jetstream.ConsumerConfig) error {
	ctx, done := c.command(ctx, outagePatience, "$JS.API.CONSUMER.CREATE."+c.names.requests+"."+want.Durable+"."+want.FilterSubject)
	defer done()
	if _, err := c.js.CreateOrUpdateConsumer(ctx, c.names.requests, want); err != nil {
		return fmt.Errorf("set up consumer %s of %s: %w", want.Durable, c.names.requests, refused(ctx, err))
	}
	return nil
}

// maxPartitions bounds Options.Partitions: their names have two digits.
const maxPartitions = 100

// ensureConsumers finds the consumers there are and makes those that are missing:
// partitions in front of the last one there is, or all where there is none, and
// the event lane. Submitters look for partitions by their consumers, so one
// that is missing in between would leave those behind it unserved.
func (c *Conn) ensureConsumers(ctx context.Context) error {
	has := make(map[string]bool)
	partitions := 0
	for p := 0; p < c.options.Partitions || p < maxPartitions && p == partitions; p++ {
		have, err := c.consumerConfig(ctx, bulkConsumer(p))
		switch {
		case err == nil:
			has[bulkConsumer(p)], partitions, c.options.AckWait = true, p+1, have.AckWait
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return err
		}
	}
	switch _, err := c.consumerConfig(ctx, eventConsumer); {
	case err == nil:
		has[eventConsumer] = true
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return err
	}
	if partitions > 0 {
		c.options.Partitions = partitions
	}
	for _, want := range c.options.consumers() {
		if has[want.Durable] {
			continue
		}
		if err := c.makeConsumer(ctx, want); err != nil {
			return err
		}
	}
	return nil
}
