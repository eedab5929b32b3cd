package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Lane is where deliveries come from: the bulk lane with its partitions, which
// are served in turns so that no batch waits for another's end, or the event
// lane. One goroutine calls it.
type Lane struct {
	conn      *Conn
	name      string
	consumers []string

	active []string  // consumers that may hold requests, next in turn first
	idle   int       // where in consumers the next idle pulls begin
	polled time.Time // when active was last asked for
	stream jetstream.Stream
	outage outage
}

// BulkLane is the lane of submitted batches.
func (c *Conn) BulkLane() *Lane {
	l := &Lane{conn: c, name: LaneBulk, outage: outage{conn: c}}
	for p := range c.options.Partitions {
		l.consumers = append(l.consumers, bulkConsumer(p))
	}
	return l
}

// EventLane is the lane of single requests that should not wait behind batches.
func (c *Conn) EventLane() *Lane {
	return &Lane{conn: c, name: LaneEvent, consumers: []string{eventConsumer}, outage: outage{conn: c}}
}

// Next waits until there are requests and claims at least one and at most free
// of them, which is at least one. When ctx ends it returns what was on its way
// together with the error; those deliveries too are the caller's to end. A lost
// connection is waited out.
func (l *Lane) Next(ctx context.Context, free int) ([]*Delivery, error) {
	if free < 1 {
		return nil, fmt.Errorf("next requests of the %s lane: %d free slots", l.name, free)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		got, err := l.claim(ctx, free)
		switch {
		case ctx.Err() != nil:
			return got, ctx.Err()
		case len(got) > 0:
			l.outage.over()
			return got, nil // an error beside them comes again without them
		case err == nil:
			l.outage.over()
		case passing(err):
			if err := l.outage.sitOut(ctx, err); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// claim asks once, and waits for a while when there is nothing.
func (l *Lane) claim(ctx context.Context, free int) ([]*Delivery, error) {
	if l.alone() {
		return l.pull(ctx, l.consumers[0], pullRequest{Batch: free, NoWait: true, Expires: l.conn.options.IdleWait})
	}
	if err := l.poll(ctx); err != nil {
		return nil, err
	}
	if got, err := l.takeTurns(ctx, free); len(got) > 0 || err != nil {
		return got, err
	}
	return l.wait(ctx, free)
}

// alone reports whether the lane has one consumer for good: the event lane, or
// the bulk lane of a server that has no other client.
func (l *Lane) alone() bool {
	return l.name == LaneEvent || l.conn.options.InProcess != nil && len(l.consumers) == 1
}

// poll asks which partitions hold requests, at most once per PollInterval.
func (l *Lane) poll(ctx context.Context) error {
	if time.Since(l.polled) < l.conn.options.PollInterval {
		return nil
	}
	l.polled = time.Now()
	ctx, cancel := context.WithTimeout(ctx, pullPatience)
	defer cancel()
	if l.stream == nil {
		stream, err := l.conn.js.Stream(ctx, l.conn.names.requests)
		if err != nil {
			return fmt.Errorf("look for requests: %w", l.conn.missing(err))
		}
		l.stream = stream
	}
	info, err := l.stream.Info(ctx, jetstream.WithSubjectFilter(l.conn.names.bulk+">"))
	if err != nil {
		return fmt.Errorf("look for requests: %w", l.conn.missing(err))
	}
	holds := make([]bool, maxPartitions)
	for subject := range info.State.Subjects {
		if p, ok := l.conn.names.partitionOf(subject); ok && p < len(holds) {
			holds[p] = true
			l.grow(ctx, p)
		}
	}
	l.active = keepTurns(l.active, l.consumers, holds)
	return nil
}

// grow takes in the partitions up to p that were made since the lane began to be
// served.
func (l *Lane) grow(ctx context.Context, p int) {
	for next := len(l.consumers); next <= p; next++ {
		if _, err := l.conn.consumerConfig(ctx, bulkConsumer(next)); err != nil {
			return // nobody's, so far
		}
		l.consumers = append(l.consumers, bulkConsumer(next))
	}
}

// keepTurns is the order of turns among the consumers that hold requests:
// those already taking turns keep theirs, new ones come in front.
func keepTurns(active, consumers []string, holds []bool) []string {
	known := make(map[string]bool, len(active))
	held := make(map[string]bool, len(consumers))
	for p, name := range consumers {
		held[name] = holds[p]
	}
	var kept []string
	for _, name := range active {
		known[name] = true
		if held[name] {
			kept = append(kept, name)
		}
	}
	var fresh []string
	for _, name := range consumers {
		if held[name] && !known[name] {
			fresh = append(fresh, name)
		}
	}
	return append(fresh, kept...)
}

// takeTurns claims what is there now, an equal share from each active partition,
// from as many of them side by side as there are free slots.
func (l *Lane) takeTurns(ctx context.Context, free int) ([]*Delivery, error) {
	var got []*Delivery
	for len(l.active) > 0 && len(got) < free && ctx.Err() == nil {
		more, err := l.takeTurn(ctx, free-len(got))
		got = append(got, more...)
		if err != nil {
			return got, err
		}
	}
	return got, nil
}

// takeTurn asks the next partitions in turn, each once. Those that have nothing
// are no longer active: what they hold is in others' hands.
func (l *Lane) takeTurn(ctx context.Context, free int) ([]*Delivery, error) {
	share := (free + len(l.active) - 1) / len(l.active)
	asked := l.active[:min(len(l.active), (free+share-1)/share)]
	results := make([][]*Delivery, len(asked))
	var group errgroup.Group
	for i, name := range asked {
		request := pullRequest{Batch: min(share, free-i*share), NoWait: true}
		ask := func() (err error) {
			results[i], err = l.pull(ctx, name, request)
			return err
		}
		if len(asked) == 1 {
			return l.tookTurn(asked, results, ask())
		}
		group.Go(ask)
	}
	return l.tookTurn(asked, results, group.Wait())
}

// tookTurn puts those that had something behind the others.
func (l *Lane) tookTurn(asked []string, results [][]*Delivery, err error) ([]*Delivery, error) {
	active := slices.Clone(l.active[len(asked):])
	for i, name := range asked {
		if len(results[i]) > 0 {
			active = append(active, name)
		}
	}
	l.active = active
	return slices.Concat(results...), err
}

// wait keeps pulls of one request open on as many partitions as there are free
// slots, and returns with the first that comes (or, rarely, the first few).
func (l *Lane) wait(ctx context.Context, free int) ([]*Delivery, error) {
	open, wait := len(l.consumers), l.conn.options.IdleWait
	if open > free {
		// Not every partition can be waited for: ask again soon.
		open, wait = free, min(wait, l.conn.options.PollInterval)
	}
	names := make([]string, open)
	for i := range names {
		names[i] = l.consumers[(l.idle+i)%len(l.consumers)]
	}
	l.idle = (l.idle + open) % len(l.consumers)

	pulling, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make([][]*Delivery, open)
	var group errgroup.Group
	for i, name := range names {
		group.Go(func() error {
			got, err := l.pull(pulling, name, pullRequest{Batch: 1, Expires: wait})
			if results[i] = got; len(got) > 0 {
				cancel() // the others need not wait on
			}
			if err != nil && pulling.Err() != nil {
				return ctx.Err()
			}
			return err
		})
	}
	err := group.Wait()
	for i, got := range results {
		// Where one is there may be more: its turn comes next.
		if len(got) > 0 && !slices.Contains(l.active, names[i]) {
			l.active = append(l.active, names[i])
		}
	}
	return slices.Concat(results...), err
}

// pull claims requests from one consumer.
func (l *Lane) pull(ctx context.Context, consumer string, request pullRequest) ([]*Delivery, error) {
	msgs, err := l.conn.pull(ctx, l.conn.names.requests, consumer, request)
	if len(msgs) > 0 {
		l.conn.tell.fetched(ctx, len(msgs))
	}
	got := make([]*Delivery, 0, len(msgs))
	for _, msg := range msgs {
		d, bad := newDelivery(l.name, msg)
		if bad != nil {
			err = errors.Join(err, bad)
			continue
		}
		got = append(got, d)
	}
	if err != nil {
		err = l.conn.explain(ctx, l.conn.names.requests, consumer, err)
	}
	return got, err
}
