package queue

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	workersAge = 15 * time.Second
	// markerAge is how long the mark of a removed key stays in its bucket, if there
	// is no reason to keep it: without an age the marks of all images ever signed
	// would fill it.
	markerAge = time.Second
)

// Consumer names: one for each partition of the bulk lane, and the event lane's.
const eventConsumer = "event"

func bulkConsumer(partition int) string { return "bulk-" + partitionName(partition) }

// streams are the streams and buckets as they are to be.
func (o Options) streams() []jetstream.StreamConfig {
	// Keys and marks of removal with a life of their own need a bucket that keeps
	// marks of the ends it brings about itself.
	const endless, mortal = false, true
	n := o.names()
	return []jetstream.StreamConfig{
		{
			Name:        n.requests,
			Description: "images to sign",
			Subjects:    []string{n.request + ">"},
			Storage:     jetstream.FileStorage,
			Replicas:    o.Replicas,
			Retention:   jetstream.WorkQueuePolicy,
			Discard:     jetstream.DiscardNew,
			MaxBytes:    o.RequestBytes,
			Duplicates:  o.DuplicateWindow,
		},
		o.records(n.outcomes, n.outcome+">", "the one outcome of each request"),
		o.records(n.dead, n.letter+">", "requests that could not be signed, and why"),
		o.bucket(n.batches, "submissions", o.Retention, endless),
		o.ledger(n.ledger, mortal),
		o.bucket(n.locks, "who is writing an attachment", 0, mortal),
		o.bucket(n.workers, "live workers", workersAge, mortal),
		o.bucket(n.control, "what an operator has paused", 0, mortal),
	}
}

// records is a stream of the one record of each request.
func (o Options) records(name, subjects, description string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        name,
		Description: description,
		Subjects:    []string{subjects},
		Storage:     jetstream.FileStorage,
		Replicas:    o.Replicas,
		// Together these make "exactly one record" a property of the server: a
		// second one on the same subject is refused.
		MaxMsgsPerSubject:    1,
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		MaxAge:               o.Retention,
		MaxBytes:             o.RecordBytes,
		Duplicates:           duplicatesWithin(o.Retention),
		AllowDirect:          true,
	}
}

// ledger is the bucket of the ledger. Each request may have an entry, which is not
// longer than the request: it is never full before the requests are.
func (o Options) ledger(name string, mortal bool) jetstream.StreamConfig {
	config := o.bucket(name, "attempts and deaths", o.LedgerAge, mortal)
	if config.MaxBytes > 0 && config.MaxBytes < o.RequestBytes || o.RequestBytes < 0 {
		config.MaxBytes = o.RequestBytes
	}
	return config
}

// bucket is the stream of a key-value bucket, laid out as clients for buckets do
// it (NATS ADR-8). The keys of a mortal one may have a life of their own.
func (o Options) bucket(name, description string, age time.Duration, mortal bool) jetstream.StreamConfig {
	config := jetstream.StreamConfig{
		Name:              "KV_" + name,
		Description:       description,
		Subjects:          []string{"$KV." + name + ".>"},
		Storage:           jetstream.FileStorage,
		Replicas:          o.Replicas,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardNew,
		MaxAge:            age,
		MaxBytes:          o.BucketBytes,
		Duplicates:        duplicatesWithin(age),
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
	}
	if mortal {
		config.AllowMsgTTL, config.SubjectDeleteMarkerTTL = true, markerAge
	}
	return config
}

// duplicatesWithin is a duplicate window that is not longer than the age of what
// is in a stream, as the server demands.
func duplicatesWithin(age time.Duration) time.Duration {
	if age == 0 {
		return 2 * time.Minute
	}
	return min(age, 2*time.Minute)
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
	n := o.names()
	consumers := make([]jetstream.ConsumerConfig, 0, o.Partitions+1)
	for p := range o.Partitions {
		consumers = append(consumers, consumer(bulkConsumer(p), n.bulk+partitionName(p)+".*"))
	}
	return append(consumers, consumer(eventConsumer, n.event+"*.*"))
}
