package queue

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// EmptiestPartition is the partition of the bulk lane with the fewest requests;
// one of them at random, so that submitters who start together spread. It is one
// of those that have a consumer on the server, whatever Options.Partitions says:
// in another, requests would wait for ever. It needs STREAM.INFO and
// CONSUMER.NAMES of SIGN_REQUESTS.
func (c *Conn) EmptiestPartition(ctx context.Context) (int, error) {
	partitions, err := c.servedPartitions(ctx)
	if err == nil && len(partitions) == 0 {
		err = ErrNotSetUp
	}
	if err != nil {
		return 0, fmt.Errorf("look for the emptiest partition: %w", err)
	}
	subjects, err := c.requestsUnder(ctx, c.names.bulk+">")
	if err != nil {
		return 0, fmt.Errorf("look for the emptiest partition: %w", err)
	}
	load := make(map[int]uint64)
	for subject, n := range subjects {
		if p, ok := c.names.partitionOf(subject); ok {
			load[p] += n
		}
	}
	emptiest := uint64(math.MaxUint64)
	for _, p := range partitions {
		emptiest = min(emptiest, load[p])
	}
	among := slices.DeleteFunc(partitions, func(p int) bool { return load[p] > emptiest })
	return among[rand.N(len(among))], nil //nolint:gosec // G404: spreads load
}

// Waiting is how many requests of a batch are in the queue: waiting for a
// worker or for their next attempt, or in a worker's hands. It needs STREAM.INFO
// of SIGN_REQUESTS.
func (c *Conn) Waiting(ctx context.Context, batch string) (int, error) {
	if !ValidName(batch) {
		return 0, fmt.Errorf("count the requests of batch %q: it is not a name", batch)
	}
	subjects, err := c.requestsUnder(ctx, c.names.request+"*.*."+batch)
	if err != nil {
		return 0, fmt.Errorf("count the requests of batch %s: %w", batch, err)
	}
	waiting := uint64(0)
	for _, n := range subjects {
		waiting += n
	}
	return int(min(waiting, math.MaxInt)), nil
}

// Backlog is what the queue holds: requests that wait for a worker or for their
// next attempt, or that are in a worker's hands.
type Backlog struct {
	Bulk    int            `json:"bulk"`
	Event   int            `json:"event"`
	Batches map[string]int `json:"batches"`
}

// Backlog counts all requests in the queue. It needs STREAM.INFO of SIGN_REQUESTS.
func (c *Conn) Backlog(ctx context.Context) (Backlog, error) {
	subjects, err := c.requestsUnder(ctx, c.names.request+">")
	if err != nil {
		return Backlog{}, fmt.Errorf("count the requests in the queue: %w", err)
	}
	backlog := Backlog{Batches: make(map[string]int)}
	for subject, count := range subjects {
		n := int(min(count, math.MaxInt))
		if _, bulk := c.names.partitionOf(subject); bulk {
			backlog.Bulk += n
		} else {
			backlog.Event += n
		}
		backlog.Batches[subject[strings.LastIndexByte(subject, '.')+1:]] += n
	}
	return backlog, nil
}

// requestsUnder is how many requests there are under each subject that a filter covers.
func (c *Conn) requestsUnder(ctx context.Context, filter string) (map[string]uint64, error) {
	return insist(ctx, c, func() (map[string]uint64, error) {
		ctx, cancel := ask(ctx)
		defer cancel()
		stream, err := c.js.Stream(ctx, c.names.requests)
		if err != nil {
			return nil, c.explain(ctx, c.names.requests, "", err)
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(filter))
		if err != nil {
			return nil, c.explain(ctx, c.names.requests, "", err)
		}
		return info.State.Subjects, nil
	})
}

// servedPartitions are the partitions that have a consumer, in order.
func (c *Conn) servedPartitions(ctx context.Context) ([]int, error) {
	return insist(ctx, c, func() ([]int, error) {
		ctx, cancel := ask(ctx)
		defer cancel()
		stream, err := c.js.Stream(ctx, c.names.requests)
		if err != nil {
			return nil, c.explain(ctx, c.names.requests, "", err)
		}
		var partitions []int
		names := stream.ConsumerNames(ctx)
		for name := range names.Name() {
			if p, ok := partitionOfConsumer(name); ok {
				partitions = append(partitions, p)
			}
		}
		if err := names.Err(); err != nil {
			return nil, fmt.Errorf("list consumers: %w", c.explain(ctx, c.names.requests, "", err))
		}
		slices.Sort(partitions)
		return partitions, nil
	})
}

// partitionOf reads the partition from the subject of a bulk request.
func (n names) partitionOf(subject string) (int, bool) {
	rest, ok := strings.CutPrefix(subject, n.bulk)
	if !ok {
		return 0, false
	}
	token, _, _ := strings.Cut(rest, ".")
	p, err := strconv.Atoi(token)
	return p, err == nil && p >= 0
}

// partitionOfConsumer reads the partition from the name of its consumer.
func partitionOfConsumer(name string) (int, bool) {
	token, ok := strings.CutPrefix(name, "bulk-")
	if !ok {
		return 0, false
	}
	p, err := strconv.Atoi(token)
	return p, err == nil && p >= 0 && bulkConsumer(p) == name
}
