// Package deadline is the per-image timeout: a context that ends once the
// image has been worked on for its limit, and that stands still while a part
// of the image only waits for its turn (a lock, a rate limit, a breaker).
//
// It decides when time is up and says why through [context.Cause]. It does not
// know what the work or the waiting is about.
package deadline

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Turn is what a part of an image can wait for without its timeout running.
type Turn string

// The turns there are.
const (
	Lock    Turn = "lock"    // another worker writes the same attachment
	Rate    Turn = "rate"    // the registry's rate or concurrency limit
	Breaker Turn = "breaker" // the registry is known to be down
)

// TimeoutError is the cause of a context whose work took longer than its limit.
type TimeoutError struct {
	Limit time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("image timeout: not done after %s of work", e.Limit)
}

// Timeout marks the error as a timeout for those who ask by net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// WaitError is the cause of a context that waited for its turn longer than allowed.
type WaitError struct {
	For    Turn
	Waited time.Duration
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("waited %s for its turn (%s)", e.Waited.Round(time.Millisecond), e.For)
}

// Limits are the two bounds of one try at an image. A bound of zero is none.
type Limits struct {
	Work time.Duration // registry and key time
	Wait time.Duration // time spent waiting for turns
}

type contextKey struct{}

// Clock counts the working and the waiting time of one try.
type Clock struct {
	cancel context.CancelCauseFunc
	limits Limits

	mu      sync.Mutex
	since   time.Time // up to when worked and waited are accounted for
	resumed time.Time // when the work was begun or gone on with
	worked  time.Duration
	waited  time.Duration
	waiting int  // parts that wait for a turn just now
	turn    Turn // what the first of them waits for
	timer   *time.Timer
	stopped bool
}

// With returns a context that is cancelled with a *TimeoutError or a
// *WaitError as its cause once a limit is reached. stop releases its timer and
// must be called.
func With(ctx context.Context, limits Limits) (limited context.Context, clock *Clock, stop context.CancelFunc) {
	limited, cancel := context.WithCancelCause(ctx)
	now := time.Now()
	c := &Clock{cancel: cancel, limits: limits, since: now, resumed: now}
	limited = context.WithValue(limited, contextKey{}, c)
	c.mu.Lock()
	c.arm()
	c.mu.Unlock()
	return limited, c, func() {
		c.mu.Lock()
		c.account()
		c.stopped = true
		if c.timer != nil {
			c.timer.Stop()
		}
		c.mu.Unlock()
		cancel(context.Canceled)
	}
}

// Pause stops the clock of ctx while the caller waits for a turn; the returned
// function sets it going again and may be called more than once. Without a
// clock in ctx it does nothing. The parts of one image run side by side: the
// clock stands as long as any of them waits.
func Pause(ctx context.Context, turn Turn) (resume func()) {
	c, ok := ctx.Value(contextKey{}).(*Clock)
	if !ok {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.account()
	if c.waiting == 0 {
		c.turn = turn
	}
	c.waiting++
	c.arm()
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.account()
		if c.waiting--; c.waiting == 0 {
			c.resumed = c.since
		}
		c.arm()
	})
}

// Waited is how long the try has waited for turns so far.
func (c *Clock) Waited() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.account()
	return c.waited
}

// Working is for how long the try has worked since it last waited for a turn;
// zero while it waits.
func (c *Clock) Working() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting > 0 || c.stopped {
		return 0
	}
	return time.Since(c.resumed)
}

// account books the time since the last change of state. Needs mu.
func (c *Clock) account() {
	now := time.Now()
	if c.stopped {
		return
	}
	if c.waiting > 0 {
		c.waited += now.Sub(c.since)
	} else {
		c.worked += now.Sub(c.since)
	}
	c.since = now
}

// arm sets the timer to the end of the present state's limit. Needs mu.
func (c *Clock) arm() {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.stopped {
		return
	}
	if c.waiting > 0 {
		if c.limits.Wait > 0 {
			c.timer = time.AfterFunc(c.limits.Wait-c.waited, func() { c.end(true) })
		}
		return
	}
	if c.limits.Work > 0 {
		c.timer = time.AfterFunc(c.limits.Work-c.worked, func() { c.end(false) })
	}
}

// end cancels the context, unless the state changed between the timer's firing
// and now: then the limit was not reached, and another timer is running.
func (c *Clock) end(waiting bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.account()
	switch {
	case c.stopped || waiting != (c.waiting > 0):
	case waiting && c.waited >= c.limits.Wait:
		c.cancel(&WaitError{For: c.turn, Waited: c.waited})
	case !waiting && c.worked >= c.limits.Work:
		c.cancel(&TimeoutError{Limit: c.limits.Work})
	}
}
