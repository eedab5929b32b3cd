package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"
)

// How old what is known of the depth of the queue may be: for metrics, and for
// whoever asks whether all is there.
const (
	depthAge = 15 * time.Second
	readyAge = 5 * time.Second
)

// depth is how much is in the streams, and how far their consumers are behind.
type depth struct {
	streams   map[string]uint64 // messages, by what is in them
	consumers map[string]lag
}

// lag is what a consumer has before it.
type lag struct {
	pending        uint64 // not delivered yet
	unacknowledged int    // delivered, and not done
}

// gauge remembers the depth for a while, so that nobody can make the server busy
// by asking.
type gauge struct {
	conn *Conn

	mu    sync.Mutex
	last  depth
	err   error
	asked time.Time
}

// of is the depth as it was at most so long ago.
func (g *gauge) of(ctx context.Context, age time.Duration) (depth, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.asked.IsZero() && time.Since(g.asked) < age {
		return g.last, g.err
	}
	// Whoever asks may hang up: the answer is for the others, too.
	g.last, g.err = g.conn.depth(context.WithoutCancel(ctx))
	g.asked = time.Now()
	return g.last, g.err
}

// depth asks the server.
func (c *Conn) depth(ctx context.Context) (depth, error) {
	ctx, cancel := ask(ctx)
	defer cancel()
	d := depth{streams: make(map[string]uint64), consumers: make(map[string]lag)}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(4)
	for what, name := range map[string]string{"requests": c.names.requests, "outcomes": c.names.outcomes, "dead": c.names.dead} {
		group.Go(func() error {
			stream, err := c.js.Stream(ctx, name)
			if err != nil {
				return fmt.Errorf("look at %s: %w", name, c.explain(ctx, name, "", err))
			}
			mu.Lock()
			defer mu.Unlock()
			d.streams[what] = stream.CachedInfo().State.Msgs
			return nil
		})
	}
	for _, name := range c.consumerNames() {
		group.Go(func() error {
			consumer, err := c.js.Consumer(ctx, c.names.requests, name)
			if err != nil {
				return fmt.Errorf("look at consumer %s: %w", name, c.explain(ctx, c.names.requests, name, err))
			}
			mu.Lock()
			defer mu.Unlock()
			info := consumer.CachedInfo()
			d.consumers[name] = lag{pending: info.NumPending, unacknowledged: info.NumAckPending}
			return nil
		})
	}
	return d, group.Wait()
}

func (c *Conn) consumerNames() []string {
	names := []string{eventConsumer}
	for p := range c.options.Partitions {
		names = append(names, bulkConsumer(p))
	}
	return names
}

// errNotConnected says that there is no connection just now.
var errNotConnected = errors.New("not connected to the NATS server")

// Connected returns an error while the connection is lost.
func (c *Conn) Connected() error {
	if status := c.nc.Status(); status != nats.CONNECTED {
		return fmt.Errorf("%w (%s)", errNotConnected, status)
	}
	return nil
}

// Ready returns an error when a worker could not be given requests: without a
// connection, or without one of the streams and consumers. It asks the server
// every few seconds at most, and needs STREAM.INFO and CONSUMER.INFO.
func (c *Conn) Ready(ctx context.Context) error {
	if err := c.Connected(); err != nil {
		return err
	}
	_, err := c.gauge.of(ctx, readyAge)
	return err
}

// Observe has metrics tell how deep the queue is, and whether there is a
// connection to it, when somebody asks for them. It needs what Ready needs.
func (c *Conn) Observe(meters metric.MeterProvider) error {
	meter := meters.Meter(scope)
	var errs [4]error
	var connected, messages, pending, unacknowledged metric.Int64ObservableGauge
	connected, errs[0] = meter.Int64ObservableGauge("signfleet.queue.connected",
		metric.WithDescription("1 while there is a connection to the NATS server."))
	messages, errs[1] = meter.Int64ObservableGauge("signfleet.stream.messages", metric.WithUnit("{message}"),
		metric.WithDescription("Messages in the streams of the fleet."))
	pending, errs[2] = meter.Int64ObservableGauge("signfleet.consumer.pending", metric.WithUnit("{message}"),
		metric.WithDescription("Requests that no worker has been given yet, by consumer."))
	unacknowledged, errs[3] = meter.Int64ObservableGauge("signfleet.consumer.unacknowledged", metric.WithUnit("{message}"),
		metric.WithDescription("Requests that are with a worker or wait for their next attempt, by consumer."))
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		if c.Connected() != nil {
			o.ObserveInt64(connected, 0)
			return nil // nothing is known of the rest
		}
		o.ObserveInt64(connected, 1)
		d, err := c.gauge.of(ctx, depthAge)
		if err != nil {
			return nil //nolint:nilerr // the gauges are absent, and /readyz says why
		}
		for what, count := range d.streams {
			o.ObserveInt64(messages, int64(count), metric.WithAttributes(attribute.String("stream", what))) //nolint:gosec // G115: far below
		}
		for name, l := range d.consumers {
			of := metric.WithAttributes(attribute.String("consumer", name))
			o.ObserveInt64(pending, int64(l.pending), of) //nolint:gosec // G115: far below
			o.ObserveInt64(unacknowledged, int64(l.unacknowledged), of)
		}
		return nil
	}, connected, messages, pending, unacknowledged)
	return err
}
