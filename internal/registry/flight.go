package registry

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// maxFlight bounds work that no caller's deadline bounds, because it belongs
// to all who wait for it.
const maxFlight = 2 * time.Minute

var errClosed = errors.New("registry client is closed")

// flights do work once for all who ask for it at the same time. The work runs
// on a context of its own: it goes on as long as anybody waits for it, so that
// one caller's cancellation is never another's, and ends when nobody does.
type flights struct {
	mu      sync.Mutex
	flying  map[string]*flight
	closed  bool
	running sync.WaitGroup
}

type flight struct {
	cancel  context.CancelCauseFunc
	done    chan struct{}
	waiting int // needs flights.mu

	// Valid once done is closed.
	result   string
	err      error
	panicked string // with what, and where; empty when it did not
}

func newFlights() *flights {
	return &flights{flying: make(map[string]*flight)}
}

// do returns the result of work, or of the work somebody else has begun under
// the same key. A failure is given to those who waited and forgotten, and so is
// a panic: it is theirs to survive, where in the work's own goroutine it would
// end the process.
func (f *flights) do(ctx context.Context, key string, work func(context.Context) (string, error)) (string, error) {
	shared, err := f.join(ctx, key, work)
	if err != nil {
		return "", err
	}
	select {
	case <-shared.done:
		if shared.panicked != "" {
			panic(shared.panicked)
		}
		return shared.result, shared.err
	case <-ctx.Done():
		f.leave(key, shared)
		return "", gaveUp(ctx)
	}
}

func (f *flights) join(ctx context.Context, key string, work func(context.Context) (string, error)) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errClosed
	}
	if shared, ok := f.flying[key]; ok {
		shared.waiting++
		return shared, nil
	}
	flightCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	flightCtx, stop := context.WithTimeout(flightCtx, maxFlight)
	shared := &flight{cancel: cancel, done: make(chan struct{}), waiting: 1}
	f.flying[key] = shared
	f.running.Go(func() {
		defer stop()
		defer cancel(nil)
		shared.fly(flightCtx, work)
		f.mu.Lock()
		f.forget(key, shared)
		f.mu.Unlock()
		close(shared.done)
	})
	return shared, nil
}

// fly does the work.
func (s *flight) fly(ctx context.Context, work func(context.Context) (string, error)) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
		}
	}()
	s.result, s.err = work(ctx)
}

// leave ends the work when its last waiter goes; whoever asks from then on
// begins anew.
func (f *flights) leave(key string, shared *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	shared.waiting--
	if shared.waiting == 0 {
		f.forget(key, shared)
		shared.cancel(context.Canceled)
	}
}

// forget needs mu.
func (f *flights) forget(key string, shared *flight) {
	if f.flying[key] == shared {
		delete(f.flying, key)
	}
}

// gaveUp is the error of one whose context ended: that it did, and why.
func gaveUp(ctx context.Context) error {
	ended, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, ended) {
		return cause
	}
	return fmt.Errorf("%w: %w", ended, cause)
}

// close ends all that is under way and waits for it, at most for grace.
func (f *flights) close(grace time.Duration) (ended bool) {
	f.mu.Lock()
	f.closed = true
	for _, shared := range f.flying {
		shared.cancel(errClosed)
	}
	f.mu.Unlock()

	done := make(chan struct{})
	go func() {
		f.running.Wait()
		close(done)
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
