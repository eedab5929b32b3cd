package registry

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	// After a 429 the fleet begins anew below the rate that was too much, is
	// near it soon, since a registry has one limit and not another each time,
	// and then feels its way upwards: each step in a minute doubles with the
	// next, so that a limit that has been raised is found in a few minutes.
	beginAt    = 0.85
	nearAt     = 0.95
	nearAfter  = 5 * time.Second
	creepEvery = 5 * time.Second
	creepStep  = 0.01
	creepFor   = time.Minute // until the step doubles

	// A rate that has grown to this many times what was too much says nothing
	// any more.
	forgetAt = 4

	// What is learned is never below this much a second: what is allowed less
	// is better served by pauses.
	leastRate  = 1.0
	leastGuess = 10.0 // where there was no limit to begin from

	leastAsking = 50 * time.Millisecond // in less there is no rate to be measured

	firstPause = time.Second // of a host that names none
	lastPause  = time.Minute // its pauses double up to here
	maxPause   = time.Hour   // whatever a host asks for: then one request is worth it
)

// failure is a rate that was too much for a host.
type failure struct {
	rate float64 // a second, of the whole fleet; 0: none is known

	// since is the end of the pause that it brought. All who know of the same
	// failure come to the same limit.
	since time.Time
}

// limit is how much a second the failure allows the whole fleet at now, and
// infinite when it is too long ago to tell.
func (f failure) limit(now time.Time) float64 {
	if f.rate == 0 {
		return math.Inf(1)
	}
	ago := max(now.Sub(f.since), 0)
	if ago < nearAfter {
		return f.rate * (beginAt + (nearAt-beginAt)*float64(ago)/float64(nearAfter))
	}
	limit := f.rate * nearAt
	left := ago - nearAfter
	for step := creepStep; left > 0; step *= 2 {
		limit *= math.Pow(1+step, float64(min(left, creepFor))/float64(creepEvery))
		if limit > forgetAt*f.rate {
			return math.Inf(1)
		}
		left -= creepFor
	}
	return limit
}

// tooMuch is the rate of the fleet that a 429 says is too much, zero when
// nothing is known of it: the limit that was in force, or without one the rate
// at which the host accepted.
//
// Both can be far off when there was less than a second to notice: a host may
// accept a burst at any rate. Then the next try begins between that rate and
// what was accepted in the whole second, though not below half the rate: to
// fail again costs a pause, to be far too low costs minutes.
func (p pause) tooMuch() float64 {
	limit, accepted := p.limit, p.accepted+p.others
	switch {
	case p.guessed && accepted == 0:
		return 0
	case p.guessed:
		limit, accepted = max(accepted, leastGuess), accepted*p.asking
	case !p.short:
		return limit
	}
	begin := max(math.Sqrt(limit*accepted), limit/2, leastRate)
	return min(limit, begin/beginAt)
}

// pauseAfter is how long a host that names no time is left alone after n
// refusals in a row. Those who were refused together come back apart.
func pauseAfter(n int) time.Duration {
	wait := lastPause
	if n < 7 { // the seventh would be beyond it
		wait = firstPause << (max(n, 1) - 1)
	}
	wait += time.Duration(rand.Float64() / 5 * float64(wait)) //nolint:gosec // spreads load, hides nothing
	return min(wait, lastPause)
}

// burst is how many requests may go at once at a rate: a tenth of a second's.
func burst(rate float64) int { return max(1, int(rate/10)) }
