package queue

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// unheard is how many announcements may wait to be told. More are lost, which
// does no harm: each worker says again what it has said.
const unheard = 1024

// Presences calls each for every announcement of a worker as it is made, those
// that stand at the beginning first, and gone for a worker that withdraws, until
// ctx ends. age is how old an announcement is: it counts for PresenceLife.
//
// An announcement is a plain message before it is an entry of its bucket: it is
// heard at once, and whether or not the server has room for it. What passes
// while the connection is lost is read from the bucket afterwards. Where the
// user may not hear others the error is a *DeniedError.
func (c *Conn) Presences(ctx context.Context, each func(p Presence, age time.Duration), gone func(worker string)) error {
	b := c.bucket(c.names.workers)
	watching, stop := c.denied.watch(ctx, DeniedError{Subject: b.subject("*"), Hearing: true})
	defer stop()
	came := make(chan *nats.Msg, unheard)
	sub, err := c.nc.ChanSubscribe(b.subject("*"), came)
	if err != nil {
		return fmt.Errorf("hear workers: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // its only failure is a connection that is gone
	connected := c.nc.StatusChanged(nats.CONNECTED)
	defer c.nc.RemoveStatusListener(connected)
	// What is announced meanwhile waits, and is told after what it is news to.
	c.standing(watching, each)
	for {
		select {
		case msg := <-came:
			hear(b, msg, each, gone)
		case <-connected:
			c.standing(watching, each)
		case <-watching.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("hear workers: %w", context.Cause(watching))
		}
	}
}

// standing tells the announcements that the bucket has. One that cannot be read
// now, or is just being stored, is made again soon, and heard.
func (c *Conn) standing(ctx context.Context, each func(Presence, time.Duration)) {
	ctx, cancel := ask(ctx)
	defer cancel()
	b := c.bucket(c.names.workers)
	_ = c.scan(ctx, b.stream(), b.subject("*"), func(msg *nats.Msg) error {
		if meta, err := msg.Metadata(); err == nil {
			hear(b, msg, func(p Presence, _ time.Duration) { each(p, max(0, time.Since(meta.Timestamp))) }, func(string) {})
		}
		return nil
	})
}

// hear tells what one message says of a worker, if it is from one.
func hear(b bucket, msg *nats.Msg, each func(Presence, time.Duration), gone func(string)) {
	worker := strings.TrimPrefix(msg.Subject, b.subject(""))
	if forged(msg.Header) {
		return
	}
	if isMark(msg.Header) {
		gone(worker)
		return
	}
	var p Presence
	if decode(msg.Data, &p) == nil && p.Worker == worker {
		each(p, 0)
	}
}
