package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// unlockPatience bounds giving back a lock, a short absence of the server
// included; one that is not given back ends with its lease.
const unlockPatience = 15 * time.Second

// Lease is a held lock. It renews itself until Unlock.
type Lease struct {
	locks bucket
	key   string
	value string        // the owner and a token of this lease
	life  time.Duration // of the key, after each write
	doubt time.Time     // when the first try to take it without an answer was made

	once sync.Once // Unlock
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	revision uint64
	until    time.Time // zero once lost or given back
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
	ctx, cancel := context.WithTimeout(context.Background(), min(unlockPatience, l.life))
	defer cancel()
	_, err := insist(ctx, l.locks.conn, func() (struct{}, error) { return struct{}{}, l.release(ctx, revision) })
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// release takes the key away, unless it is somebody else's by now.
func (l *Lease) release(ctx context.Context, revision uint64) error {
	err := l.locks.purge(ctx, l.key, revision)
	if isWrongSequence(err) {
		// Somebody else's by now, or renewed by a message whose answer was lost.
		current, ours, holdsErr := l.holds(ctx)
		if err = holdsErr; ours {
			err = l.locks.purge(ctx, l.key, current)
		}
	}
	if isWrongSequence(err) {
		return nil
	}
	return err
}

// keep renews the lease four times within its life, until Unlock or until it
// is lost to another holder.
func (l *Lease) keep(ctx context.Context) {
	defer close(l.done)
	ticker := time.NewTicker(l.life / 4)
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
	ctx, cancel := context.WithTimeout(ctx, l.life/4)
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

// write stores the key again, for a full life.
func (l *Lease) write(ctx context.Context) error {
	asked := time.Now()
	revision, err := l.locks.update(ctx, l.key, []byte(l.value), l.life, l.revision)
	if err != nil {
		return err
	}
	l.held(revision, asked)
	return nil
}

// held notes that the key was stored at a time not before since.
func (l *Lease) held(revision uint64, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision, l.until = revision, since.Add(l.life)
}

// holds reads whether the lock is this lease's, and under which revision.
func (l *Lease) holds(ctx context.Context) (revision uint64, ours bool, err error) {
	stored, err := l.locks.get(ctx, l.key)
	if errors.Is(err, ErrNone) || errors.Is(err, ErrUnreadable) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return stored.revision, string(stored.data) == l.value, nil
}
