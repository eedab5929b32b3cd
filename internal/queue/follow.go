package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// followBatch is how many outcomes are asked for at once.
const followBatch = 256

// followIdle is after how long without a pull the server drops a follower.
const followIdle = 5 * time.Minute

// Follow calls each for every outcome of a batch, those of the past first, and
// goes on with those that come until ctx ends or each returns an error. It
// survives the loss of the connection; should the server have lost outcomes with
// it, those it still has come twice. caughtUp is called once, when the outcomes
// of the past have been told. An outcome of a later version ends it with a
// *VersionError.
func (c *Conn) Follow(ctx context.Context, batch string, caughtUp func() error, each func(Outcome) error) error {
	f := follower{conn: c, batch: batch, caughtUp: caughtUp, each: each}
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
			// last outcome told.
			f.consumer = ""
			if err := outage.sitOut(ctx, err); err != nil {
				return fmt.Errorf("follow batch %s: %w", batch, err)
			}
		default:
			return fmt.Errorf("follow batch %s: %w", batch, err)
		}
	}
}

// follower is a consumer of a batch's outcomes that is made again when it or
// something on the way from it may be lost.
type follower struct {
	conn     *Conn
	batch    string
	caughtUp func() error // nil once called
	each     func(Outcome) error

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
		FilterSubject:     "sign.outcome." + f.batch + ".>",
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		InactiveThreshold: followIdle,
	}
	if f.told > 0 {
		stream, err := f.conn.js.Stream(ctx, streamOutcomes)
		if err != nil {
			return missing(err)
		}
		if stream.CachedInfo().State.LastSeq < f.told {
			f.told = 0 // the server has lost some: its numbers are given anew
		}
	}
	if f.told > 0 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.told+1
	}
	consumer, err := f.conn.js.CreateConsumer(ctx, streamOutcomes, config)
	if err != nil {
		return missing(err)
	}
	info := consumer.CachedInfo()
	f.consumer, f.received, f.remaining = info.Name, 0, info.NumPending
	return f.catchUp()
}

// tell passes on the outcomes there are, or else waits for some.
func (f *follower) tell(ctx context.Context) error {
	request := pullRequest{Batch: followBatch, NoWait: true, Expires: f.conn.options.IdleWait}
	msgs, pullErr := f.conn.pull(ctx, streamOutcomes, f.consumer, request)
	for _, msg := range msgs {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if f.received++; meta.Sequence.Consumer != f.received {
			return fmt.Errorf("%w: messages %d to %d are missing", errInterrupted, f.received, meta.Sequence.Consumer-1)
		}
		f.told = meta.Sequence.Stream
		o, ok, err := genuineOutcome(msg, f.batch)
		if err != nil {
			return err
		}
		if ok {
			if err := f.each(o); err != nil {
				return &stopped{err}
			}
		}
		if f.caughtUp != nil {
			f.remaining = min(f.remaining-1, meta.NumPending)
			if err := f.catchUp(); err != nil {
				return err
			}
		}
	}
	if pullErr == nil && len(msgs) < followBatch {
		f.remaining = 0 // the rest of the past is past its age
		return f.catchUp()
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
	_ = f.conn.js.DeleteConsumer(ctx, streamOutcomes, f.consumer)
}

// genuineOutcome reads an outcome; ok is false when the server was made to store
// something else under its subject. One of a later version is an error: without
// it whoever counts outcomes would wait for ever.
func genuineOutcome(msg *nats.Msg, batch string) (o Outcome, ok bool, err error) {
	if forged(msg.Header) {
		return Outcome{}, false, nil
	}
	err = decode(msg.Data, &o)
	var later *VersionError
	if errors.As(err, &later) {
		return Outcome{}, false, fmt.Errorf("outcome of a later version: use a newer sign-submit (%w)", later)
	}
	if err != nil || msg.Subject != outcomeSubject(batch, o.ID, o.Gen) || o.Batch != batch {
		return Outcome{}, false, nil
	}
	return o, true, nil
}
