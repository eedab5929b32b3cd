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

	// Where a limit is not known yet, one is looked for from below: the first
	// answers of a host say no more than what it takes at once.
	searchAfter  = time.Second // what is wrong with the beginning shows in it
	searchGrowth = 1.5         // a second, from then on
	searchEnds   = 100         // times what it began with

	// What is too much is not noticed at once: a host counts it together.
	noticed = 500 * time.Millisecond

	// What is learned is never below this much a second: what is allowed less
	// is better served by pauses.
	leastRate  = 1.0
	leastBegin = 10.0 // of a search

	firstPause = time.Second // of a host that names none
	lastPause  = time.Minute // its pauses double up to here
	maxPause   = time.Hour   // whatever a host asks for: then one request is worth it
)

// failure is a rate that was too much for a host, or one to look for that from.
type failure struct {
	rate   float64 // a second, of the whole fleet; 0: none is known
	search bool    // the rate is that of a beginning

	// began is when the pause that it brought did: what tells it from others.
	// since is the end of that pause. All who know of the same failure come to the
	// same limit.
	began, since time.Time
}

// limit is how much a second the failure allows the whole fleet at now, and
// infinite when it is too long ago to tell.
func (f failure) limit(now time.Time) float64 {
	if f.rate == 0 {
		return math.Inf(1)
	}
	ago := max(now.Sub(f.since), 0)
	if f.search {
		return atMostTimes(searchEnds, f.rate, math.Pow(searchGrowth, max(ago-searchAfter, 0).Seconds()))
	}
	if ago < nearAfter {
		return f.rate * (beginAt + (nearAt-beginAt)*float64(ago)/float64(nearAfter))
	}
	grown := nearAt
	left := ago - nearAfter
	for step := creepStep; left > 0 && grown <= forgetAt; step *= 2 {
		grown *= math.Pow(1+step, float64(min(left, creepFor))/float64(creepEvery))
		left -= creepFor
	}
	return atMostTimes(forgetAt, f.rate, grown)
}

func atMostTimes(most, rate, grown float64) float64 {
	if grown > most {
		return math.Inf(1)
	}
	return rate * grown
}

// failed is what a 429 says of the rate of the fleet. The limit that was in force
// for a second was too much. Without a limit, one is looked for from what was
// accepted. When there was less than a second to notice, the limit may be far off,
// since hosts accept some requests at any rate: the truth is between it and what
// was accepted in the whole second. But it is no less than half of it: to fail
// again costs a pause, to be far too low costs minutes.
func (p pause) failed() failure {
	f := failure{began: p.began, since: p.began} // since moves along with the end of the pause
	switch accepted := p.accepted + p.others; {
	case p.unlimited:
		f.rate, f.search = max(accepted, leastBegin), true
	case p.short:
		f.rate = max(min(math.Sqrt(p.limit*accepted), p.limit), p.limit/2, leastRate)
		if f.search = p.searching; f.search {
			f.rate = max(f.rate*beginAt, p.limit/2)
		}
	default:
		f.rate = max(p.limit, leastRate)
	}
	return f
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
