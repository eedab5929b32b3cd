package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Follow calls each for every outcome of a batch, those of the past first, and
// goes on with those that come until ctx ends or each returns an error. It
// survives the loss of the connection; should the server have lost outcomes with
// it, those it still has come twice. caughtUp is called once, when the outcomes
// of the past have been told. An outcome of a later version ends it with a
// *VersionError.
func (c *Conn) Follow(ctx context.Context, batch string, caughtUp func() error, each func(Outcome) error) error {
	if !ValidName(batch) {
		return fmt.Errorf("follow batch %q: it is not a name", batch)
	}
	err := c.follow(ctx, c.names.outcomes, c.names.outcome+batch+".>", caughtUp, func(msg *nats.Msg) error {
		o, ok, err := c.names.genuineOutcome(msg, batch)
		if err != nil || !ok {
			return err
		}
		return each(o)
	})
	if later := new(VersionError); errors.As(err, &later) {
		return fmt.Errorf("follow batch %s: %w", batch, err)
	}
	return err
}

// Outcomes calls each for every outcome of a batch that is stored by now. One
// may come twice when the connection is lost in between.
func (c *Conn) Outcomes(ctx context.Context, batch string, each func(Outcome) error) error {
	err := c.Follow(ctx, batch, func() error { return errCaughtUp }, each)
	if errors.Is(err, errCaughtUp) {
		return nil
	}
	return err
}

// genuineOutcome reads an outcome; ok is false when the server was made to store
// something else under its subject. One of a later version is an error: without
// it whoever counts outcomes would wait for ever.
func (n names) genuineOutcome(msg *nats.Msg, batch string) (o Outcome, ok bool, err error) {
	if forged(msg.Header) {
		return Outcome{}, false, nil
	}
	err = decode(msg.Data, &o)
	var later *VersionError
	if errors.As(err, &later) {
		return Outcome{}, false, fmt.Errorf("outcome of a later version: use a newer sign-submit (%w)", later)
	}
	if err != nil || msg.Subject != n.outcomeSubject(batch, o.ID, o.Gen) || o.Batch != batch {
		return Outcome{}, false, nil
	}
	return o, true, nil
}
