package fleet

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/signfleet/signfleet/test/peers"
)

// Faults is what the proxy in front of the registry does to requests: each takes
// a while, as in the field, and a
// scenario may spoil some.
type Faults struct {
	mu      sync.Mutex
	latency time.Duration
	share   float64 // of requests to be spoiled
	random  *rand.Rand

	limit  int       // of requests in a second; 0: none
	window time.Time // the second that counts now
	passed int       // in it
}

// SetLatency makes each request take so much longer.
func (f *Faults) SetLatency(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latency = d
}

// Spoil has a share of the requests answered with 500, with 429 or not at all,
// from now on. What hangs does so until its client gives up.
func (f *Faults) Spoil(share float64, seed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.share, f.random = share, rand.New(rand.NewPCG(seed, seed))
}

// Limit has requests beyond so many in a second answered with 429, as registries
// do: seconds are counted one after the other from the first request on. 0 ends it.
func (f *Faults) Limit(perSecond int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit, f.window, f.passed = perSecond, time.Time{}, 0
}

// Heal ends all faults, and the latency.
func (f *Faults) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.share, f.latency, f.limit = 0, 0, 0
}

// pass counts a request, and reports whether the limit lets it through. Needs mu.
func (f *Faults) pass(now time.Time) bool {
	if past := now.Sub(f.window); past >= time.Second {
		f.passed = 0
		if f.window = f.window.Add(past.Truncate(time.Second)); past > time.Minute {
			f.window = now // the first request
		}
	}
	if f.limit > 0 && f.passed == f.limit {
		return false
	}
	f.passed++
	return true
}

func (f *Faults) choose(int, *http.Request) peers.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.pass(time.Now()) {
		return peers.Fault{Delay: f.latency, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}
	}
	if f.share == 0 || f.random.Float64() > f.share {
		return peers.Fault{Delay: f.latency}
	}
	switch f.random.IntN(6) {
	case 0:
		return peers.Fault{Delay: f.latency, Hang: true}
	case 1, 2:
		return peers.Fault{Delay: f.latency, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}
	case 3:
		return peers.Fault{Delay: f.latency, Lose: true}
	}
	return peers.Fault{Delay: f.latency, Status: http.StatusInternalServerError}
}
