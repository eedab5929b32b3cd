package worker

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
)

// Throttle holds the requests to registries to what these can take.
type Throttle interface {
	// Loads are what there is to tell the fleet of each host.
	Loads() []registry.HostLoad
	// Heed takes what the rest of the fleet has and knows of a host.
	Heed(host string, fleet registry.FleetLoad)
	// Throttled has something to receive when a host has wanted fewer requests.
	Throttled() <-chan struct{}
}

// noThrottle is that of a worker whose requests nobody counts.
type noThrottle struct{}

func (noThrottle) Loads() []registry.HostLoad         { return nil }
func (noThrottle) Heed(string, registry.FleetLoad)    {}
func (noThrottle) Throttled() (never <-chan struct{}) { return nil }

// sharing puts together what the other workers say of registries, so that all
// of them together stay below the rate of each.
//
// What it heard last holds while the queue is away. Whether it is follows from
// this worker's own announcements: who does not hear himself hears nobody, and
// takes nobody for dead.
type sharing struct {
	own      string // name of this worker
	throttle Throttle
	beat     time.Duration // between announcements
	news     chan struct{} // that should not wait for the next of them

	mu       sync.Mutex
	listened time.Duration // how long it had been hearing by heard
	heard    time.Time     // its own announcement, last
	others   map[string]other
	given    map[string]registry.FleetLoad // by host: what throttle was told last
	told     map[string]telling            // by host: what the others were told last
}

// other is another worker, as of its last announcement.
type other struct {
	at       time.Time
	listened time.Duration
	hosts    map[string]queue.HostState
}

// telling is what the others know of a host from this worker.
type telling struct {
	demand bool
	paused time.Time // until then
}

func newSharing(o Options) *sharing {
	s := &sharing{
		own: o.Name, throttle: o.Throttle, beat: o.AnnounceEvery, news: make(chan struct{}, 1),
		heard: time.Now(), others: make(map[string]other),
		given: make(map[string]registry.FleetLoad), told: make(map[string]telling),
	}
	if s.throttle == nil {
		s.throttle = noThrottle{}
	}
	return s
}

// hear listens to the other workers until ctx ends.
func (w *Worker) hear(ctx context.Context) {
	err := w.records.Presences(ctx, w.sharing.hear, w.sharing.forget)
	if err != nil && ctx.Err() == nil {
		w.log.Warn("cannot hear the other workers: this one does not share the rates of registries with them", zap.Error(err))
	}
}

// hear takes what a worker has announced. One that tells of a pause has to know
// soon what this one had at that registry: it takes both for what was too much.
func (s *sharing) hear(p queue.Presence, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if p.Worker == s.own {
		if age == 0 {
			s.listened, s.heard = s.listening(now), now
		}
		return
	}
	o := other{at: now.Add(-age), listened: s.listening(now) - age, hosts: make(map[string]queue.HostState, len(p.Hosts))}
	for _, h := range p.Hosts {
		o.hosts[h.Host] = h
	}
	s.others[p.Worker] = o
	for host, state := range o.hosts {
		load, last := s.load(host, now), s.given[host]
		if !urgent(state, load, last) {
			continue
		}
		load.Early = true // fewer others are for the next beat: a short silence is none
		s.give(host, load)
		if known := s.told[host]; state.PausedFor > 0 && known.demand && known.paused.Before(now) {
			s.speak()
		}
	}
}

// speak has this worker announce itself soon.
func (s *sharing) speak() {
	select {
	case s.news <- struct{}{}:
	default: // it will
	}
}

// listening is how long this worker has been hearing by now. Of an outage no more
// counts than a beat. Needs mu.
func (s *sharing) listening(now time.Time) time.Duration {
	return s.listened + min(now.Sub(s.heard), s.beat)
}

// urgent reports that what is heard of a host cannot wait for the next beat.
func urgent(state queue.HostState, load, last registry.FleetLoad) bool {
	return state.PausedFor > 0 || load.Others > last.Others || rateOf(load.Failure) != rateOf(last.Failure)
}

func rateOf(f *registry.RateFailure) float64 {
	if f == nil {
		return 0
	}
	return f.Rate
}

// forget drops a worker that has withdrawn.
func (s *sharing) forget(worker string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.others, worker)
}

// heed tells throttle of all hosts what the rest of the fleet has there. It is
// for every beat: what is told there twice holds.
func (s *sharing) heed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	hosts := make(map[string]bool)
	for name, o := range s.others {
		if s.listening(now)-o.listened > queue.PresenceLife {
			delete(s.others, name)
			continue
		}
		for host := range o.hosts {
			hosts[host] = true
		}
	}
	for host := range s.given {
		hosts[host] = true
	}
	for host := range hosts {
		nothing := registry.FleetLoad{}
		load, last := s.load(host, now), s.given[host]
		s.give(host, load)
		if load == nothing && last == nothing {
			delete(s.given, host)
		}
	}
}

// give needs mu.
func (s *sharing) give(host string, load registry.FleetLoad) {
	s.given[host] = load
	s.throttle.Heed(host, load)
}

// load is what the others have at a host together. Needs mu.
func (s *sharing) load(host string, now time.Time) registry.FleetLoad {
	var load registry.FleetLoad
	for _, o := range s.others {
		state, ok := o.hosts[host]
		if !ok {
			continue
		}
		load.Add(loadOf(state), now.Sub(o.at))
	}
	return load
}

// untold reports whether requests go to a host that the others believe to have
// to themselves.
func (s *sharing) untold() bool {
	loads := s.throttle.Loads()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(loads, func(l registry.HostLoad) bool {
		known, ok := s.told[l.Host]
		return l.Demand > 0 && !known.demand && (ok || len(s.told) < maxTold)
	})
}

// maxTold bounds the registries that a worker tells of, and maxWhy the reason
// given for each in bytes: what it says is a message, and often said.
const (
	maxTold = 64
	maxWhy  = 512
)

// tell is what this worker says of registries: which ask for fewer requests,
// which it leaves alone itself, and which it has requests for. Where those are
// too many, the last are left out first.
func (s *sharing) tell(open []queue.HostState) []queue.HostState {
	states := slices.Clone(open)
	for _, load := range s.throttle.Loads() {
		at := slices.IndexFunc(states, func(h queue.HostState) bool { return h.Host == load.Host })
		if at < 0 {
			at, states = len(states), append(states, queue.HostState{Host: load.Host})
		}
		describe(&states[at], load)
	}
	slices.SortStableFunc(states, func(a, b queue.HostState) int {
		return cmp.Or(cmp.Compare(weight(b), weight(a)), cmp.Compare(b.Demand, a.Demand))
	})
	states = states[:min(len(states), maxTold)]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	clear(s.told)
	for i := range states {
		h := &states[i]
		if len(h.Reason) > maxWhy {
			h.Reason = strings.ToValidUTF8(h.Reason[:maxWhy], "") + "..."
		}
		s.told[h.Host] = telling{demand: h.Demand > 0, paused: now.Add(time.Duration(h.PausedFor))}
	}
	return states
}

// describe adds to the state of a host what throttle has to tell of it.
func describe(h *queue.HostState, load registry.HostLoad) {
	h.Demand, h.PausedFor = load.Demand, queue.Seconds(load.PausedFor)
	h.Accepted = math.Round(load.Accepted*100) / 100
	if f := load.Failure; f != nil {
		h.FailedRate, h.FailedSearch = f.Rate, f.Search
		h.FailedBegan, h.FailedAgo = queue.Seconds(f.Began), queue.Seconds(f.Ago)
	}
}

// loadOf is what describe was given.
func loadOf(h queue.HostState) registry.HostLoad {
	load := registry.HostLoad{Host: h.Host, Demand: h.Demand, Accepted: h.Accepted, PausedFor: time.Duration(h.PausedFor)}
	if h.FailedRate > 0 {
		load.Failure = &registry.RateFailure{
			Rate: h.FailedRate, Search: h.FailedSearch, Began: time.Duration(h.FailedBegan), Ago: time.Duration(h.FailedAgo),
		}
	}
	return load
}

// weight is how much the others need to know of a host.
func weight(h queue.HostState) int {
	switch {
	case h.PausedFor > 0:
		return 3
	case h.FailedRate > 0:
		return 2
	case h.Open:
		return 1
	}
	return 0
}
