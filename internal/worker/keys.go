package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
)

// Keys are keys that somebody else holds, who can be away.
type Keys interface {
	// Away reports whether an attempt came to nothing because a key was not to be
	// had, whatever the image.
	Away(err error) bool
	// Probe uses each key once, and says why one cannot be used.
	Probe(ctx context.Context) error
}

// KeysAwayError says that the keys were away for longer than is waited for them.
type KeysAwayError struct {
	For time.Duration
	Err error // why they are
}

func (e *KeysAwayError) Error() string {
	return fmt.Sprintf("the keys to sign with are away for %s: %v", e.For.Round(time.Second), e.Err)
}

func (e *KeysAwayError) Unwrap() error { return e.Err }

// KeysUsable returns why the keys cannot be used at the moment; nil when they can.
// Until they can be used again, no requests are taken from the queue.
func (w *Worker) KeysUsable() error { return w.gate.shut() }

// keyGate is shut while the keys are away: a request that came in would only be
// given back.
type keyGate struct {
	keys    Keys // nil are keys in memory, which are never away
	options Options
	log     *zap.Logger
	spread  func(time.Duration) time.Duration // jitter

	fell chan struct{} // has one word in it when an outage begins

	mu     sync.Mutex
	away   error // why it is shut; nil while it is open
	since  time.Time
	opened time.Time          // the last time
	open   context.Context    // ends when it shuts
	shutIt context.CancelFunc // ends open
	again  chan struct{}      // closed when it opens again
}

func newKeyGate(o Options, log *zap.Logger, spread func(time.Duration) time.Duration) *keyGate {
	g := &keyGate{keys: o.Keys, options: o, log: log, spread: spread, fell: make(chan struct{}, 1)}
	g.open, g.shutIt = context.WithCancel(context.Background())
	return g
}

// shut returns why it is; nil when it is not.
func (g *keyGate) shut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.away
}

// failed is told why an attempt failed that began some time ago, and reports
// whether that is because the keys are away. Those that began before it was
// opened tell nothing new.
func (g *keyGate) failed(err error, began time.Time) bool {
	if g.keys == nil || !g.keys.Away(err) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away != nil || began.Before(g.opened) {
		return true
	}
	g.away, g.since, g.again = err, time.Now(), make(chan struct{})
	g.shutIt()
	g.log.Warn("the keys are away, no requests are taken until they are back", zap.Error(err))
	g.fell <- struct{}{} // there is room: the last word was heard before it opened
	return true
}

// wait returns when it is open, or when ctx ends.
func (g *keyGate) wait(ctx context.Context) {
	g.mu.Lock()
	again, away := g.again, g.away
	g.mu.Unlock()
	if away == nil {
		return
	}
	select {
	case <-again:
	case <-ctx.Done():
	}
}

// whileOpen returns a context that ends when it shuts, too. stop must be called.
func (g *keyGate) whileOpen(ctx context.Context) (open context.Context, stop context.CancelFunc) {
	if g.keys == nil {
		return ctx, func() {}
	}
	g.mu.Lock()
	shut := g.open
	g.mu.Unlock()
	open, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(shut, cancel)
	return open, func() {
		unhook()
		cancel()
	}
}

// watch tries the keys while they are away, until ctx ends. When they have been
// away for too long it calls giveUp, and leaves it at that.
func (g *keyGate) watch(ctx context.Context, giveUp func(error)) {
	for {
		select {
		case <-g.fell:
		case <-ctx.Done():
			return
		}
		if err := g.await(ctx); err != nil {
			giveUp(err)
			return
		}
	}
}

// await tries the keys, less and less often, until they are back, ctx ends, or
// they have been away for too long.
func (g *keyGate) await(ctx context.Context) error {
	for wait := g.options.ProbeMin; ; wait = min(2*wait, g.options.ProbeMax) {
		pause(ctx, wait+g.spread(wait))
		if ctx.Err() != nil {
			return nil
		}
		err := g.keys.Probe(ctx)
		switch {
		case err == nil:
			g.reopen()
			return nil
		case ctx.Err() != nil:
			return nil
		}
		if err := g.stillAway(err); err != nil {
			return err
		}
	}
}

func (g *keyGate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log.Info("the keys are back, requests are taken again", zap.Duration("after", time.Since(g.since)))
	g.away, g.opened = nil, time.Now()
	g.open, g.shutIt = context.WithCancel(context.Background())
	close(g.again)
}

// stillAway notes why, and returns an error when that has gone on for too long.
func (g *keyGate) stillAway(why error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.away = why
	lasts := time.Since(g.since)
	if g.options.KeyPatience == 0 || lasts < g.options.KeyPatience {
		return nil
	}
	return &KeysAwayError{For: lasts, Err: why}
}

// withoutKeys gives back a job that nothing can be signed for now. That is no
// attempt, but it is waiting.
func (w *Worker) withoutKeys(j *job, err error) result {
	after := w.pauseAfter(j.delivered, 0)
	j.entry.Waited += queue.Seconds(after)
	j.entry.Class, j.entry.Error = KeyUnavailable, shortened(err.Error())
	if time.Duration(j.entry.Waited) > w.options.MaxWait {
		return w.end(j, queue.Dead, KeyUnavailable, err.Error())
	}
	return result{retry: &retry{after: after}}
}

// keysAway is why Run came to its end, if it is that.
func keysAway(ctx context.Context) error {
	var away *KeysAwayError
	if errors.As(context.Cause(ctx), &away) {
		return away
	}
	return nil
}
