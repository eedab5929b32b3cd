package registry

import (
	"cmp"
	"math"
	"slices"
	"time"
)

const (
	// A host counts as asked for this long after the last request.
	demandLasts = 5 * time.Second

	// What is heard of a pause is late by the way of the news. One that is heard
	// to end this little later is the one already known: the fleet's own news,
	// coming back, must not make it longer.
	heardLate = 100 * time.Millisecond

	// Failures that began this near to each other are one: two have a whole pause
	// between them.
	oneFailure = 700 * time.Millisecond
)

// HostLoad is what those who share a host need to know of us.
type HostLoad struct {
	Host   string
	Demand int // requests that wait or are under way; at least 1 if there was one in the last 5 s

	// Accepted is how much a second the host answers us other than 429; while it
	// is paused, how much it did before.
	Accepted float64

	PausedFor time.Duration
	Failure   *RateFailure // nil: no 429 seen or heard of lately
}

// RateFailure is a rate that was answered 429.
type RateFailure struct {
	Rate float64 // of the whole fleet

	// Search tells that the rate is not what was too much, but one to look for
	// that from: there was too little time to know it.
	Search bool

	// Began is how long ago the pause did that the host got for it, and Ago since
	// its end; 0 while it lasts.
	Began, Ago time.Duration
}

// FleetLoad is what all others together have of one host.
type FleetLoad struct {
	// Early tells that it is heard between two heartbeats, because somebody has
	// something to tell: that others are silent says nothing yet.
	Early     bool
	Others    int           // with demand
	Accepted  float64       // by them, in the last second
	PausedFor time.Duration // the longest
	Failure   *RateFailure  // the newest
}

// Add puts to a fleet's load what one of its workers has told some time ago. A
// failure's age begins when the pause for it is over.
//
// Of two failures the newest counts. Of one failure that both tell of, the higher
// rate is the better known: whoever tells of less did not know of all.
func (f *FleetLoad) Add(load HostLoad, age time.Duration) {
	if load.Demand > 0 {
		f.Others++
		f.Accepted += max(load.Accepted, 0)
	}
	f.PausedFor = max(f.PausedFor, load.PausedFor-age)
	if load.Failure == nil || load.Failure.Rate <= 0 {
		return
	}
	told := *load.Failure
	told.Began += age
	if told.Ago == 0 {
		age = max(0, age-load.PausedFor)
	}
	told.Ago += age
	switch known := f.Failure; {
	case known == nil:
	case (known.Began - told.Began).Abs() < oneFailure:
		if known.Rate > told.Rate {
			told.Rate, told.Search = known.Rate, known.Search
		}
		told.Began, told.Ago = min(told.Began, known.Began), min(told.Ago, known.Ago)
	case known.Began < told.Began:
		return
	}
	f.Failure = &told
}

// share is what is known of the others.
type share struct {
	others   int
	fewer    int // others that the last heartbeat told of, when fewer than others; -1: not so
	accepted float64
}

// Loads are those of the hosts that there is something to tell of: somebody
// asks them, or they have refused somebody.
func (c *Client) Loads() []HostLoad {
	var loads []HostLoad
	now := time.Now()
	c.throttles.hosts.Range(func(_, host any) bool {
		if load := host.(*throttle).load(now); load.Demand > 0 || load.PausedFor > 0 || load.Failure != nil {
			loads = append(loads, load)
		}
		return true
	})
	slices.SortFunc(loads, func(a, b HostLoad) int { return cmp.Compare(a.Host, b.Host) })
	return loads
}

func (h *throttle) load(now time.Time) HostLoad {
	load := HostLoad{Host: h.host, Demand: h.demand(now)}
	h.mu.Lock()
	defer h.mu.Unlock()
	load.Accepted = h.acceptedRate(now)
	load.PausedFor = max(h.pause.left(now), 0)
	if !math.IsInf(h.failure.limit(now), 1) {
		load.Failure = &RateFailure{
			Rate: h.failure.rate, Search: h.failure.search,
			Began: now.Sub(h.failure.began), Ago: max(now.Sub(h.failure.since), 0),
		}
	}
	return load
}

func (h *throttle) demand(now time.Time) int {
	if pending := h.pending.Load(); pending > 0 {
		return int(pending)
	}
	if last := h.asked.Load(); last > 0 && int64(now.Sub(h.answers.born))-last < int64(demandLasts) {
		return 1
	}
	return 0
}

// Heed takes into account what the others of the fleet have and know of a
// host. It is of this moment: who puts loads together adds the age of each to
// its Ago, and takes it off its PausedFor.
//
// The newest failure and the longest pause win. A smaller share of the host's
// rate holds at once, a larger one from the second time in a row that it is
// given: another worker's silence may be short.
func (c *Client) Heed(host string, fleet FleetLoad) {
	if fleet.says() || c.throttles.knows(host) {
		c.throttles.of(host).heed(fleet, time.Now())
	}
}

// says reports that there is something to remember.
func (f FleetLoad) says() bool { return f.Others > 0 || f.PausedFor > 0 || f.Failure != nil }

func (t *throttles) knows(host string) bool {
	_, ok := t.hosts.Load(host)
	return ok
}

func (h *throttle) heed(fleet FleetLoad, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fleet.hear(fleet)
	h.hearPause(now, min(fleet.PausedFor, maxPause))
	if f := fleet.Failure; f != nil && f.Rate > 0 && !math.IsInf(f.Rate, 1) {
		since := now.Add(-f.Ago)
		if f.Ago <= 0 {
			since = now.Add(max(fleet.PausedFor, 0))
		}
		h.hearFailure(failure{rate: f.Rate, search: f.Search, began: now.Add(-f.Began), since: since})
	}
	if h.pause.unlimited && h.pause.left(now) > 0 && h.failedNow() && h.failure.search {
		// What the others had when it came is known only now.
		h.pause.others = h.fleet.accepted
		h.failure.rate = max(h.failure.rate, h.pause.failed().rate)
	}
	if h.pause.left(now) > 0 || !math.IsInf(h.limit(now), 1) {
		h.wake()
	}
}

// hear takes the share that the others leave.
func (s *share) hear(fleet FleetLoad) {
	if s.accepted = 0; fleet.Accepted > 0 && !math.IsInf(fleet.Accepted, 1) {
		s.accepted = fleet.Accepted
	}
	switch others := max(fleet.Others, 0); {
	case others >= s.others:
		s.others, s.fewer = others, -1
	case fleet.Early:
	case s.fewer < 0:
		s.fewer = others
	default:
		s.others, s.fewer = max(s.fewer, others), -1
	}
}

// hearPause joins a pause that others are in. Needs mu.
func (h *throttle) hearPause(now time.Time, left time.Duration) {
	end := now.Add(left)
	switch {
	case left <= 0:
	case h.pause.left(now) <= 0:
		if h.refusals.CompareAndSwap(0, 1) {
			h.begin(now, 1)
		} else {
			h.begin(now, 2)
		}
		h.until(end)
	case end.Sub(h.pause.ends) > heardLate:
		h.until(end)
	}
}

// hearFailure takes the newer of two. Of one that several have had at once
// the highest rate is the best known: it is too low where somebody did not
// know of all the others. Needs mu.
func (h *throttle) hearFailure(heard failure) {
	newer := heard.began.Sub(h.failure.began)
	switch {
	case newer.Abs() >= oneFailure:
		if newer > 0 {
			h.failure = heard
		}
	case heard.rate > h.failure.rate:
		h.failure.rate, h.failure.search = heard.rate, heard.search
	}
}
