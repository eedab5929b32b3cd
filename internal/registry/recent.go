package registry

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	tick        = 100 * time.Millisecond
	secondTicks = int64(time.Second / tick)
	countBits   = 24
	countMask   = 1<<countBits - 1
)

// recent counts the answers of the last second, without a lock: it is on the
// way of every request.
type recent struct {
	born  time.Time
	ticks [16]atomic.Uint64 // number of the tick, and how many answers it had
}

func (r *recent) add(now time.Time) {
	number := uint64(now.Sub(r.born) / tick) //nolint:gosec // not before it was born
	slot := &r.ticks[number%uint64(len(r.ticks))]
	for {
		held := slot.Load()
		next := held + 1
		if held>>countBits != number {
			next = number<<countBits | 1
		}
		if slot.CompareAndSwap(held, next) {
			return
		}
	}
}

// lastSecond takes of the tick that a second ago lies in the part that is
// younger.
func (r *recent) lastSecond(now time.Time) float64 {
	passed := now.Sub(r.born)
	current := int64(passed / tick)
	sum := 0.0
	for i := range r.ticks {
		held := r.ticks[i].Load()
		age := current - int64(held>>countBits)
		count := float64(held & countMask)
		switch {
		case age < secondTicks:
			sum += count
		case age == secondTicks:
			sum += count * (1 - math.Mod(float64(passed), float64(tick))/float64(tick))
		}
	}
	return sum
}
