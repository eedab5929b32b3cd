package embedded

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/queue"
)

// lockFiles is how many files serve all locks. Two names may share one: their
// holders then wait for each other without need, and for no longer than a write.
const lockFiles = 4096

// A lock held by another process is asked for again after these pauses.
const (
	lockPauseMin = 10 * time.Millisecond
	lockPauseMax = 200 * time.Millisecond
)

// Locker gives out locks that also hold between submissions which have no
// server in common: beside the lock of the queue, each is a file lock in a
// directory that all of them use. The kernel gives back those of a process
// that dies.
type Locker struct {
	queue *queue.Locker
	dir   string
}

// NewLocker returns a locker whose files are in dir, which is made if needed.
func NewLocker(q *queue.Locker, dir string) (*Locker, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of locks: %w", err)
	}
	return &Locker{queue: q, dir: dir}, nil
}

// Lease is a held lock.
type Lease struct {
	*queue.Lease
	file *os.File
}

// Lock waits until the lock is free and takes it. The waiting does not count
// toward the timeout of the image.
func (l *Locker) Lock(ctx context.Context, name string) (*Lease, error) {
	lease, err := l.queue.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	file, err := l.lockFile(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, errors.Join(err, lease.Unlock())) //nolint:contextcheck // ctx may have ended, and giving back is bounded by itself
	}
	return &Lease{Lease: lease, file: file}, nil
}

// lockFile waits for the file of a name.
func (l *Locker) lockFile(ctx context.Context, name string) (*os.File, error) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	path := filepath.Join(l.dir, fmt.Sprintf("%03x", h.Sum64()%lockFiles))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: the state directory is the caller's to choose
	if err != nil {
		return nil, err
	}
	resume := func() {}
	defer func() { resume() }()
	for pause := lockPauseMin; ; pause = min(2*pause, lockPauseMax) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, file.Close())
		}
		if pause == lockPauseMin {
			resume = deadline.Pause(ctx, deadline.Lock)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)): //nolint:gosec // G404: jitter
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), file.Close())
		}
	}
}

// Unlock gives the lock back.
func (l *Lease) Unlock() error {
	return errors.Join(l.file.Close(), l.Lease.Unlock())
}
