package worker

import (
	"fmt"
	"slices"
	"time"
)

// breaker keeps images from a registry that fails, so that they do not use up
// their attempts on it:
//
//	closed --- failures in a row ---> open --- its time is over ---> half-open
//	  ^                                ^                              |    |
//	  +--------- an answer ------------|------------------------------+    |
//	                                   +------- the probe fails -----------+
//
// Half-open, it lets in one image at a time, the probe, which is an attempt
// like any other. Who uses it sees to it that nobody else does.
type breaker struct {
	failures int       // in a row
	until    time.Time // open until then and half-open from then on; zero when closed
	probe    *stay     // under way
	reason   string    // of the last failure
}

// breaking are the classes of failure that say that the registry itself is ill.
var breaking = []string{Network, RegistryUnavailable, Timeout}

// breaks reports whether a failure counts toward opening the breaker.
func (f failure) breaks() bool { return slices.Contains(breaking, f.class) }

func (b *breaker) closed() bool { return b.until.IsZero() }

// wait is how long an image has to stay away, zero when it may come in. Behind
// a probe that takes long, others ask less and less often.
func (b *breaker) wait(now time.Time, longest time.Duration) time.Duration {
	switch {
	case b.closed():
		return 0
	case now.Before(b.until):
		return b.until.Sub(now)
	case b.probe == nil:
		return 0
	}
	return pace(now.Sub(b.probe.began), longest)
}

// enter notes an image that was let in.
func (b *breaker) enter(s *stay) {
	if !b.closed() {
		b.probe = s
	}
}

// fail notes a failure, and reports whether the breaker is open because of it.
// Images that were let in before it opened change nothing.
func (b *breaker) fail(s *stay, now time.Time, o Options, reason string) (opened bool) {
	b.failures++
	b.reason = reason
	if b.closed() && b.failures >= o.BreakerAfter || b.probe == s {
		b.until, b.probe = now.Add(o.BreakerFor), nil
		return true
	}
	return false
}

// answer notes that the registry is well, and reports whether that is news.
func (b *breaker) answer() (closed bool) {
	closed = !b.closed()
	*b = breaker{}
	return closed
}

// leave notes that an image is done with; one that ended without a word about
// the registry leaves the probing to the next.
func (b *breaker) leave(s *stay) {
	if b.probe == s {
		b.probe = nil
	}
}

// why is what an image is told that has to stay away from a host.
func (b *breaker) why(host string) string {
	return fmt.Sprintf("%s is left alone after %d failures in a row, the last of them: %s", host, b.failures, b.reason)
}

// turnPause is the shortest time for which an image is sent away from a
// registry that may take it soon.
const turnPause = time.Second

// pace is the pause before a registry is asked about again that has not been
// heard of for some time: as long again.
func pace(silent, longest time.Duration) time.Duration {
	return min(max(silent, turnPause), max(longest, turnPause))
}
