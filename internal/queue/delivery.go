package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
)

// ErrForged says that a message was put into its stream by the server on
// somebody's behalf, or under another's subject, and not by a client of this queue.
var ErrForged = errors.New("message was not published by a client of this queue under its own subject")

// confirmPatience is how long an acknowledgement is repeated while the server
// does not confirm it. It never will when it has forgotten the delivery, as
// after a crash: the request then comes again.
const confirmPatience = 30 * time.Second

// maxBody bounds what is kept of a message that cannot be read, so that it fits
// into a dead letter whatever the server's limit.
const maxBody = 64 << 10

// Delivery is one delivery of a request. One goroutine ends it, once, with
// Done or Retry; until then KeepAlive must be called more often than AckWait.
type Delivery struct {
	// Request is what was asked. With an Err only ID, Gen and Batch are sure.
	Request Request
	// Err says why the message cannot be read: *VersionError, ErrForged or a
	// decoding error.
	Err error
	// Delivered is how often the server thinks it has delivered the message. A
	// server crash lowers it and a drain raises it: it only hints at whether
	// there is something in the ledger.
	Delivered int
	// StoredAt is when the server stored the message.
	StoredAt time.Time
	// Lane is the name of the lane it came by: "bulk" or "event".
	Lane string

	msg *nats.Msg
}

func newDelivery(lane string, msg *nats.Msg) (*Delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read a delivery: %w", err)
	}
	d := &Delivery{Delivered: int(min(meta.NumDelivered, 1<<20)), StoredAt: meta.Timestamp, Lane: lane, msg: msg}
	batch := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	if forged(msg.Header) {
		d.Err = ErrForged
	} else {
		d.Request, d.Err = decodeRequest(msg.Data, batch)
	}
	if d.Err != nil {
		d.Request = unreadable(msg, batch, meta.Sequence.Stream)
	}
	return d, nil
}

// forged reports whether a message carries the headers of a stored one: somebody
// let the server answer a question with this subject for the answer.
func forged(h nats.Header) bool { return h.Get("Nats-Stream") != "" || h.Get("Nats-Subject") != "" }

// unreadable names a message that could not be decoded by its message id, or
// else by its place in the stream, so that it can have an outcome.
func unreadable(msg *nats.Msg, batch string, sequence uint64) Request {
	if !ValidName(batch) {
		batch = hashName(batch)
	}
	if id, gen, ok := strings.Cut(msg.Header.Get(nats.MsgIdHdr), "."); ok && ValidName(id) {
		if n, err := strconv.Atoi(gen); err == nil && n >= 0 {
			return Request{ID: id, Gen: n, Batch: batch}
		}
	}
	return Request{ID: hashName(fmt.Sprintf("%s %d", msg.Subject, sequence)), Batch: batch}
}

// Body is the message as it was delivered, or its beginning when it is very long:
// all there is of a request that cannot be read.
func (d *Delivery) Body() []byte { return d.msg.Data[:min(len(d.msg.Data), maxBody)] }

// Context returns ctx with the trace context that the submitter sent along.
func (d *Delivery) Context(ctx context.Context) context.Context {
	return propagation.TraceContext{}.Extract(ctx, headerCarrier(d.msg.Header))
}

// Done removes the request from the queue and returns when the server has
// confirmed it. After an error the request may or may not be removed; calling
// Done again is harmless.
func (d *Delivery) Done(ctx context.Context) error {
	err := d.confirm(ctx, func(ctx context.Context) error { return d.msg.AckSync(nats.Context(ctx)) })
	if err != nil {
		return fmt.Errorf("acknowledge request %s: %w", d.Request.ID, err)
	}
	return nil
}

// Retry gives the request back, to be delivered again after a delay to whoever
// asks first. It returns when the server has confirmed it.
func (d *Delivery) Retry(ctx context.Context, after time.Duration) error {
	err := d.confirm(ctx, func(ctx context.Context) error {
		if after > 0 {
			return d.msg.NakWithDelay(after, nats.Context(ctx))
		}
		return d.msg.Nak(nats.Context(ctx))
	})
	if err != nil {
		return fmt.Errorf("give back request %s: %w", d.Request.ID, err)
	}
	return nil
}

// confirm repeats send while the connection is away or the answer was lost with it.
func (d *Delivery) confirm(ctx context.Context, send func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, confirmPatience)
	defer cancel()
	for {
		try, cancelTry := ask(ctx)
		err := send(try)
		cancelTry()
		switch {
		case err == nil || errors.Is(err, nats.ErrMsgAlreadyAckd):
			return nil
		case ctx.Err() != nil:
			return errors.Join(context.Cause(ctx), err)
		case !passing(err):
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// KeepAlive tells the server that the request is being worked on.
func (d *Delivery) KeepAlive() error {
	if err := d.msg.InProgress(); err != nil && !errors.Is(err, nats.ErrMsgAlreadyAckd) {
		return fmt.Errorf("keep request %s: %w", d.Request.ID, err)
	}
	return nil
}
