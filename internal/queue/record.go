package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrFull says that a stream has reached its limit and takes no more records.
var ErrFull = errors.New("the stream is full")

// ErrNone says that there is no such record.
var ErrNone = errors.New("no such record")

// ErrUnreadable says that there is a record, and that it cannot be read: it is
// forged (then the error is ErrForged too), of a later version (then it is a
// *VersionError too), or nonsense. Asking again changes nothing.
var ErrUnreadable = errors.New("the record cannot be read")

// ErrTooLarge says that a message is larger than the server takes. Sending it
// again changes nothing.
var ErrTooLarge = errors.New("the message is larger than the NATS server takes (max_payload)")

// codeStoreFailed is what the server answers when a message cannot be stored:
// because its subject has its one message already, or the stream is full.
const codeStoreFailed jetstream.ErrorCode = 10077

// What the server answers when a message, or its header, is larger than it takes.
const (
	codeMessageTooLarge jetstream.ErrorCode = 10054
	codeHeaderTooLarge  jetstream.ErrorCode = 10097
)

// Record stores the one outcome of a request's generation and returns the
// outcome that counts: o itself, or the one that was stored before. When that
// one cannot be read the error is ErrUnreadable. After an error other than this,
// ErrFull and ErrTooLarge the outcome may or may not be stored; recording again
// is harmless.
func (c *Conn) Record(ctx context.Context, o Outcome) (Outcome, error) {
	o.Version = version
	data, err := json.Marshal(o)
	if err != nil {
		return Outcome{}, fmt.Errorf("encode outcome: %w", err)
	}
	err = c.store(ctx, c.names.outcomes, c.names.outcomeSubject(o.Batch, o.ID, o.Gen), data)
	if !isStoreFailed(err) {
		if err != nil {
			return Outcome{}, fmt.Errorf("record outcome of %s: %w", o.ID, err)
		}
		return o, nil
	}
	stored, readErr := patiently(ctx, func() (Outcome, error) { return c.Outcome(ctx, o.Batch, o.ID, o.Gen) })
	switch {
	case errors.Is(readErr, ErrNone):
		return Outcome{}, fmt.Errorf("record outcome of %s: %w (%w)", o.ID, ErrFull, err)
	case readErr != nil:
		return Outcome{}, fmt.Errorf("record outcome of %s: %w", o.ID, readErr)
	}
	return stored, nil
}

// Outcome reads the outcome of a request's generation, or ErrNone.
func (c *Conn) Outcome(ctx context.Context, batch, id string, gen int) (Outcome, error) {
	var o Outcome
	if err := c.load(ctx, c.names.outcomes, c.names.outcomeSubject(batch, id, gen), &o); err != nil {
		return Outcome{}, err
	}
	if o.Batch != batch || o.ID != id || o.Gen != gen {
		return Outcome{}, fmt.Errorf("read outcome of %s: %w (%w)", id, ErrUnreadable, ErrForged)
	}
	return o, nil
}

// Bury stores the dead letter of a request's generation; one that is there
// already stays, whether it can be read or not.
func (c *Conn) Bury(ctx context.Context, letter DeadLetter) error {
	letter.Version = version
	data, err := json.Marshal(letter)
	if err != nil {
		return fmt.Errorf("encode dead letter: %w", err)
	}
	r := letter.Request
	err = c.store(ctx, c.names.dead, c.names.deadSubject(r.Batch, r.ID, r.Gen), data)
	if isStoreFailed(err) {
		_, readErr := patiently(ctx, func() (DeadLetter, error) { return c.DeadLetter(ctx, r.Batch, r.ID, r.Gen) })
		if readErr == nil || errors.Is(readErr, ErrUnreadable) {
			return nil
		}
		if errors.Is(readErr, ErrNone) {
			readErr = fmt.Errorf("%w (%w)", ErrFull, err)
		}
		err = readErr
	}
	if err != nil {
		return fmt.Errorf("store dead letter of %s: %w", r.ID, err)
	}
	return nil
}

// DeadLetter reads the dead letter of a request's generation, or ErrNone.
func (c *Conn) DeadLetter(ctx context.Context, batch, id string, gen int) (DeadLetter, error) {
	var letter DeadLetter
	if err := c.load(ctx, c.names.dead, c.names.deadSubject(batch, id, gen), &letter); err != nil {
		return DeadLetter{}, err
	}
	if r := letter.Request; r.Batch != batch || r.ID != id || r.Gen != gen {
		return DeadLetter{}, fmt.Errorf("read dead letter of %s: %w (%w)", id, ErrUnreadable, ErrForged)
	}
	return letter, nil
}

// DeadLetters calls each for every dead letter of a batch that is stored by now.
// One that cannot be read is left out.
func (c *Conn) DeadLetters(ctx context.Context, batch string, each func(DeadLetter) error) error {
	if !ValidName(batch) {
		return fmt.Errorf("read the dead letters of batch %q: it is not a name", batch)
	}
	return c.scan(ctx, c.names.dead, c.names.letter+batch+".>", func(msg *nats.Msg) error {
		var letter DeadLetter
		if forged(msg.Header) || decode(msg.Data, &letter) != nil {
			return nil
		}
		if r := letter.Request; r.Batch != batch || msg.Subject != c.names.deadSubject(batch, r.ID, r.Gen) {
			return nil
		}
		return each(letter)
	})
}

func (c *Conn) store(ctx context.Context, stream, subject string, data []byte) error {
	ctx, done := c.command(ctx, answerPatience, subject)
	defer done()
	_, err := c.js.Publish(ctx, subject, data, jetstream.WithExpectStream(stream))
	return c.explain(ctx, stream, "", refused(ctx, err))
}

func isStoreFailed(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed
}

// patiently reads a record that the server says it has: any replica may answer
// a read, and one just written may not be there yet.
func patiently[T any](ctx context.Context, read func() (T, error)) (T, error) {
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		record, err := read()
		if !errors.Is(err, ErrNone) || pause > 500*time.Millisecond {
			return record, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return record, context.Cause(ctx)
		}
	}
}

// load reads the record under a subject, or ErrNone.
func (c *Conn) load(ctx context.Context, stream, subject string, into any) error {
	msg, err := c.last(ctx, stream, subject)
	if err != nil {
		return err
	}
	if err := decodeRecord(msg.Data, into); err != nil {
		return fmt.Errorf("read %s: %w", subject, err)
	}
	return nil
}

// decodeRecord is decode, for what has been stored once and for all.
func decodeRecord(data []byte, into any) error {
	if err := decode(data, into); err != nil {
		return fmt.Errorf("%w (%w)", ErrUnreadable, err)
	}
	return nil
}

// last reads the last message of a subject by direct get, or ErrNone.
func (c *Conn) last(ctx context.Context, stream, subject string) (*nats.Msg, error) {
	question := "$JS.API.DIRECT.GET." + stream + "." + subject
	ctx, done := c.command(ctx, answerPatience, question)
	defer done()
	reply, err := c.nc.RequestWithContext(ctx, question, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, c.explain(ctx, stream, "", refused(ctx, err)))
	}
	switch status := reply.Header.Get("Status"); status {
	case "":
	case "404":
		return nil, ErrNone
	default:
		return nil, fmt.Errorf("read %s: %s %s", subject, status, reply.Header.Get("Description"))
	}
	// The server adds these headers to those that the message has.
	if len(reply.Header.Values("Nats-Stream")) > 1 || len(reply.Header.Values("Nats-Subject")) > 1 {
		return nil, fmt.Errorf("read %s: %w (%w)", subject, ErrUnreadable, ErrForged)
	}
	return reply, nil
}
