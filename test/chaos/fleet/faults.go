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

// Heal ends all faults, and the latency.
func (f *Faults) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.share, f.latency = 0, 0
}

func (f *Faults) choose(int, *http.Request) peers.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
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
