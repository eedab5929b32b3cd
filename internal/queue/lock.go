package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signfleet/signfleet/internal/deadline"
)

// Waiting for a lock: it is asked for again after these pauses. Most locks are
// held for the time of three requests to a registry.
const (
	lockPauseFirst = 10 * time.Millisecond
	lockPauseLast  = 500 * time.Millisecond
)

// unlockPatience bounds giving back a lock; one that is not given back ends with its lease.
const unlockPatience = 5 * time.Second

// Locker gives out locks, of which one holder at a time in the whole fleet has
// each. A holder that dies delays others by the rest of its lease.
type Locker struct {
	conn  *Conn
	owner string
}

// Locker returns a locker whose locks carry the name of their owner.
func (c *Conn) Locker(owner string) *Locker { return &Locker{conn: c, owner: owner} }

// Lease is a held lock. It renews itself until Unlock.
type Lease struct {
	kv    jetstream.KeyValue
	conn  *Conn
	key   string
	value string // the owner and a token of this lease

	once sync.Once // Unlock
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	revision uint64
	until    time.Time // zero once lost or given back
}

// Lock waits until the lock is free and takes it. The waiting does not count
// toward the timeout of the image.
func (l *Locker) Lock(ctx context.Context, name string) (*Lease, error) {
	kv, err := l.conn.bucket(ctx, bucketLocks)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	lease := &Lease{kv: kv, conn: l.conn, key: hashName(name), value: l.owner + " " + rand.Text()}
	outage := outage{conn: l.conn}
	resume := func() {}
	defer func() { resume() }()
	var unsure time.Time // when the first try without an answer was made
	for pause := lockPauseFirst; ; pause = min(2*pause, lockPauseLast) {
		taken, err := lease.take(ctx, unsure)
		switch {
		case taken:
			lease.keepUp(ctx)
			return lease, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
		case err == nil:
			outage.over()
		case !passing(err):
			return nil, fmt.Errorf("lock %s: %w", name, err)
		case unsure.IsZero():
			unsure = time.Now().Add(-answerPatience)
		}
		if pause == lockPauseFirst {
			resume = deadline.Pause(ctx, deadline.Lock)
		}
		if err != nil {
			if err := outage.sitOut(ctx, err); err != nil {
				return nil, fmt.Errorf("lock %s: %w", name, err)
			}
			continue
		}
		select {
		case <-time.After(pause/2 + mathrand.N(pause)): //nolint:gosec // G404: jitter
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
		}
	}
}

// take asks once for the lock. A question that was asked is waited for even when
// ctx ends: a lock taken without knowing would be nobody's until its life is
// over. One taken so in a try before is found by its token.
func (l *Lease) take(ctx context.Context, unsure time.Time) (bool, error) {
	ctx, cancel := ask(context.WithoutCancel(ctx))
	defer cancel()
	asked := time.Now()
	revision, err := l.kv.Create(ctx, l.key, []byte(l.value), jetstream.KeyTTL(l.conn.options.LockTTL))
	switch {
	case err == nil:
		l.revision, l.until = revision, asked.Add(l.conn.options.LockTTL)
		return true, nil
	case !isWrongSequence(err):
		return false, l.conn.explain(ctx, "KV_"+bucketLocks, "", err)
	case unsure.IsZero():
		return false, nil
	}
	revision, ours, err := l.holds(ctx)
	if ours {
		l.revision, l.until = revision, unsure.Add(l.conn.options.LockTTL)
		_ = l.write(ctx) // a full life, for that one has run for long
	}
	return ours, err
}

// keepUp starts to renew the lease, until Unlock.
func (l *Lease) keepUp(ctx context.Context) {
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.done = make(chan struct{})
	go l.keep(ctx)
}

// Left is how long the lease still holds for certain: zero once it is over or
// somebody else may have the lock.
func (l *Lease) Left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.until))
}

// Unlock gives the lock back. It needs no context, so that it also works at the
// end of one; it waits for the server for a bounded time. Only the first call
// does something.
func (l *Lease) Unlock() error {
	var err error
	l.once.Do(func() { err = l.unlock() })
	return err
}

func (l *Lease) unlock() error {
	l.stop()
	<-l.done
	l.mu.Lock()
	revision, lost := l.revision, l.until.IsZero()
	l.until = time.Time{}
	l.mu.Unlock()
	if lost {
		return nil // it is not ours to give
	}
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	err := l.remove(ctx, revision)
	if isWrongSequence(err) {
		// Somebody else's by now, or renewed by a message whose answer was lost.
		current, ours, holdsErr := l.holds(ctx)
		if err = holdsErr; ours {
			err = l.remove(ctx, current)
		}
	}
	if err != nil && !isWrongSequence(err) {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// remove gives the lock free. The mark of its removal goes soon: one for every
// image ever signed would fill the bucket.
func (l *Lease) remove(ctx context.Context, revision uint64) error {
	return l.kv.Purge(ctx, l.key, jetstream.LastRevision(revision), jetstream.PurgeTTL(markerAge))
}

// keep renews the lease four times within its life, until Unlock or until it
// is lost to another holder.
func (l *Lease) keep(ctx context.Context) {
	defer close(l.done)
	ticker := time.NewTicker(l.conn.options.LockTTL / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if lost := l.renew(ctx); lost {
			l.mu.Lock()
			l.until = time.Time{}
			l.mu.Unlock()
			return
		}
	}
}

// renew gives the key a new life. Without an answer the lease may still be
// ours: it runs on to its end.
func (l *Lease) renew(ctx context.Context) (lost bool) {
	ctx, cancel := context.WithTimeout(ctx, l.conn.options.LockTTL/4)
	defer cancel()
	err := l.write(ctx)
	if !isWrongSequence(err) {
		return false
	}
	// Lost, unless an earlier renewal was stored and only its answer lost.
	revision, ours, err := l.holds(ctx)
	if err != nil {
		return false
	}
	if ours {
		l.mu.Lock()
		l.revision = revision
		l.mu.Unlock()
		_ = l.write(ctx) // or the next time
	}
	return !ours
}

// write stores the key again. A KeyValue's own Update carries no TTL and would
// make the lock eternal, so the message is published raw.
func (l *Lease) write(ctx context.Context) error {
	msg := nats.NewMsg("$KV." + bucketLocks + "." + l.key)
	msg.Data = []byte(l.value)
	msg.Header.Set(jetstream.MsgTTLHeader, l.conn.options.LockTTL.String())
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(l.revision, 10))
	asked := time.Now()
	ack, err := l.conn.js.PublishMsg(ctx, msg)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision, l.until = ack.Sequence, asked.Add(l.conn.options.LockTTL)
	return nil
}

// holds reads whether the lock is this lease's, and under which revision.
func (l *Lease) holds(ctx context.Context) (revision uint64, ours bool, err error) {
	entry, err := l.kv.Get(ctx, l.key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return entry.Revision(), string(entry.Value()) == l.value, nil
}

// isWrongSequence reports whether a write found another revision than it
// expected. Replicated streams have a code of their own for it.
func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// ForgetLocks removes all locks: for a server that serves one process alone,
// whose locks after a crash are nobody's.
func (c *Conn) ForgetLocks(ctx context.Context) error {
	ctx, cancel := ask(ctx)
	defer cancel()
	stream, err := c.js.Stream(ctx, "KV_"+bucketLocks)
	if err != nil {
		return fmt.Errorf("forget locks: %w", missing(err))
	}
	if err := stream.Purge(ctx); err != nil {
		return fmt.Errorf("forget locks: %w", err)
	}
	return nil
}
