package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// followBatch is how many messages are asked for at once.
const followBatch = 256

// followIdle is after how long without a pull the server drops a follower.
const followIdle = 5 * time.Minute

// errCaughtUp ends the reading of what is stored by now.
var errCaughtUp = errors.New("caught up")

// scan calls each for every message that a stream has now under a subject, in
// the order it was stored.
func (c *Conn) scan(ctx context.Context, stream, subject string, each func(*nats.Msg) error) error {
	err := c.follow(ctx, stream, subject, func() error { return errCaughtUp }, each)
	if errors.Is(err, errCaughtUp) {
		return nil
	}
	return err
}

// scanBucket calls each for every value that a bucket has now under a pattern of
// keys. What cannot be read, as a removed key or a forged value, is left out.
func scanBucket[T any](ctx context.Context, c *Conn, name, pattern string, each func(key string, value T) error) error {
	b := c.bucket(name)
	return c.scan(ctx, b.stream(), b.subject(pattern), func(msg *nats.Msg) error {
		if forged(msg.Header) || isMark(msg.Header) {
			return nil
		}
		var value T
		if decode(msg.Data, &value) != nil {
			return nil
		}
		return each(strings.TrimPrefix(msg.Subject, b.subject("")), value)
	})
}

// follow calls each for every message that a stream has under a subject and goes
// on with those that come, until ctx ends or a function returns an error, which
// it returns as it is. It survives the loss of the connection; should the server
// have lost messages with it, those it still has come twice. caughtUp is called
// once, when those of the past have been told.
func (c *Conn) follow(ctx context.Context, stream, subject string, caughtUp func() error, each func(*nats.Msg) error) error {
	f := follower{conn: c, stream: stream, subject: subject, caughtUp: caughtUp, each: each}
	defer func() { f.close(ctx) }()
	outage := outage{conn: c}
	for {
		err := f.open(ctx)
		if err == nil {
			err = f.tell(ctx)
		}
		var stop *stopped
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &stop):
			return stop.cause
		case err == nil:
			outage.over()
		case passing(err):
			// What was on its way may be lost: a new consumer begins behind the
			// last message told.
			f.consumer = ""
			if err := outage.sitOut(ctx, err); err != nil {
				return fmt.Errorf("follow %s: %w", subject, err)
			}
		default:
			return fmt.Errorf("follow %s: %w", subject, err)
		}
	}
}

// follower is a consumer that is made again when it or something on the way from
// it may be lost.
type follower struct {
	conn     *Conn
	stream   string
	subject  string
	caughtUp func() error // nil once called
	each     func(*nats.Msg) error

	consumer  string // its name; empty when there is none
	received  uint64 // how many messages of this consumer
	told      uint64 // stream sequence of the last message told
	remaining uint64 // messages of the past still to come
}

// stopped carries an error of the caller's functions out of the loop.
type stopped struct{ cause error }

func (s *stopped) Error() string { return s.cause.Error() }

// open makes the consumer, unless there is one.
func (f *follower) open(ctx context.Context) error {
	if f.consumer != "" {
		return nil
	}
	ctx, cancel := ask(ctx)
	defer cancel()
	config := jetstream.ConsumerConfig{
		FilterSubject:     f.subject,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		InactiveThreshold: followIdle,
	}
	if f.told > 0 {
		stream, err := f.conn.js.Stream(ctx, f.stream)
		if err != nil {
			return f.conn.missing(err)
		}
		if stream.CachedInfo().State.LastSeq < f.told {
			f.told = 0 // the server has lost some: its numbers are given anew
		}
	}
	if f.told > 0 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.told+1
	}
	consumer, err := f.conn.js.CreateConsumer(ctx, f.stream, config)
	if err != nil {
		return f.conn.explain(ctx, f.stream, "", err)
	}
	info := consumer.CachedInfo()
	f.consumer, f.received, f.remaining = info.Name, 0, info.NumPending
	return f.catchUp()
}

// tell passes on the outcomes there are, or else waits for some.
func (f *follower) tell(ctx context.Context) error {
	request := pullRequest{Batch: followBatch, NoWait: true, Expires: f.conn.options.IdleWait}
	msgs, pullErr := f.conn.pull(ctx, f.stream, f.consumer, request)
	for _, msg := range msgs {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if f.received++; meta.Sequence.Consumer != f.received {
			return fmt.Errorf("%w: messages %d to %d are missing", errInterrupted, f.received, meta.Sequence.Consumer-1)
		}
		f.told = meta.Sequence.Stream
		if err := f.each(msg); err != nil {
			return &stopped{err}
		}
		if f.caughtUp != nil {
			f.remaining = min(f.remaining-1, meta.NumPending)
			if err := f.catchUp(); err != nil {
				return err
			}
		}
	}
	if pullErr == nil && len(msgs) < followBatch && f.caughtUp != nil {
		// The rest of the past is past its age, or the server was too busy to give
		// it in time: another consumer is told how much there is.
		f.close(ctx)
		f.consumer = ""
	}
	return pullErr
}

// catchUp tells the caller, once, when nothing of the past remains.
func (f *follower) catchUp() error {
	if f.remaining > 0 || f.caughtUp == nil {
		return nil
	}
	caughtUp := f.caughtUp
	f.caughtUp = nil
	if err := caughtUp(); err != nil {
		return &stopped{err}
	}
	return nil
}

// close removes the consumer; one that cannot be removed ends by itself.
func (f *follower) close(ctx context.Context) {
	if f.consumer == "" || !f.conn.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullPatience)
	defer cancel()
	_ = f.conn.js.DeleteConsumer(ctx, f.stream, f.consumer)
}
