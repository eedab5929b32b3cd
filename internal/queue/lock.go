package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/signfleet/signfleet/internal/deadline"
)

// Waiting for a lock: it is asked for again after these pauses. Most locks are
// held for the time of three requests to a registry.
const (
	lockPauseFirst = 10 * time.Millisecond
	lockPauseLast  = 500 * time.Millisecond
)

// Locker gives out locks, of which one holder at a time in the whole fleet has
// each. A holder that dies delays others by the rest of its lease.
type Locker struct {
	conn  *Conn
	owner string
}

// Locker returns a locker whose locks carry the name of their owner.
func (c *Conn) Locker(owner string) *Locker { return &Locker{conn: c, owner: owner} }

// Lock waits until the lock is free and takes it. The waiting does not count
// toward the timeout of the image. A lost connection is waited out.
func (l *Locker) Lock(ctx context.Context, name string) (*Lease, error) {
	lease := &Lease{
		locks: l.conn.bucket(l.conn.names.locks), key: hashName(name),
		value: l.owner + " " + rand.Text(), life: l.conn.options.LockTTL,
	}
	began := time.Now()
	err := lease.take(ctx)
	if errors.Is(err, errKeyExists) || passing(err) {
		resume := deadline.Pause(ctx, deadline.Lock)
		err = lease.await(ctx, err)
		resume()
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	l.conn.tell.locked(ctx, began)
	lease.keepUp(ctx)
	return lease, nil
}

// await asks for the lock until it is taken. It begins behind a try that ended
// with err.
func (l *Lease) await(ctx context.Context, err error) error {
	outage := outage{conn: l.locks.conn}
	for pause := lockPauseFirst; ; pause = min(2*pause, lockPauseLast) {
		switch {
		case errors.Is(err, errKeyExists):
			outage.over()
			err = rest(ctx, pause/2+mathrand.N(pause)) //nolint:gosec // G404: jitter
		case passing(err):
			err = outage.sitOut(ctx, err)
		}
		if err != nil {
			return err
		}
		if err = l.take(ctx); err == nil {
			return nil
		}
	}
}

// take asks once for the lock; errKeyExists says that somebody else has it. A
// question that was asked is waited for even when ctx ends: a lock taken without
// knowing would be nobody's until its life is over.
func (l *Lease) take(ctx context.Context) error {
	ctx, cancel := ask(context.WithoutCancel(ctx))
	defer cancel()
	asked := time.Now()
	revision, err := l.locks.create(ctx, l.key, []byte(l.value), l.life)
	switch {
	case err == nil:
		l.held(revision, asked)
	case errors.Is(err, errKeyExists) && !l.doubt.IsZero():
		return l.recognise(ctx)
	case passing(err) && l.doubt.IsZero():
		l.doubt = asked
	}
	return err
}

// recognise looks whether the lock is held by a try of this lease whose answer
// was lost.
func (l *Lease) recognise(ctx context.Context) error {
	revision, ours, err := l.holds(ctx)
	if err != nil {
		return err
	}
	if !ours {
		return errKeyExists
	}
	l.held(revision, l.doubt)
	_ = l.write(ctx) // a full life, for that one has run for long
	return nil
}

func rest(ctx context.Context, pause time.Duration) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ForgetLocks removes all locks: for a server that serves one process alone,
// whose locks after a crash are nobody's.
func (c *Conn) ForgetLocks(ctx context.Context) error {
	ctx, cancel := ask(ctx)
	defer cancel()
	stream, err := c.js.Stream(ctx, "KV_"+c.names.locks)
	if err != nil {
		return fmt.Errorf("forget locks: %w", c.missing(err))
	}
	if err := stream.Purge(ctx); err != nil {
		return fmt.Errorf("forget locks: %w", err)
	}
	return nil
}
