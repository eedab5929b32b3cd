package registry

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/signfleet/signfleet/internal/deadline"
)

// maxSitOut is the longest pause of a host that a request waits out here. For a
// longer one there are better places to wait: the image has others to let in.
const maxSitOut = 10 * time.Second

// ThrottledError is a request that was not sent, because its host wants none
// for longer than is waited here.
type ThrottledError struct {
	Host string
	For  time.Duration
}

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("%s wants no requests for %s", e.Host, e.For.Round(time.Second))
}

// throttles are those of all hosts.
type throttles struct {
	slots int
	limit float64 // requests a second by all who share a host; infinite: none
	tell  func(host string)
	hosts sync.Map // of *throttle, by host
}

func newThrottles(slots int, limit float64, tell func(host string)) *throttles {
	if limit == 0 {
		limit = math.Inf(1)
	}
	if tell == nil {
		tell = func(string) {}
	}
	return &throttles{slots: slots, limit: limit, tell: tell}
}

func (t *throttles) of(host string) *throttle {
	if known, ok := t.hosts.Load(host); ok {
		return known.(*throttle)
	}
	known, _ := t.hosts.LoadOrStore(host, newThrottle(host, t.slots, t.limit, func() { t.tell(host) }))
	return known.(*throttle)
}

// throttle decides when a request to one host may be sent:
//
//	pause   none is, until the host's time is over
//	slot    so many are under way at once
//	token   so many go in a second
//
// A request that finds neither pause nor limit takes its slot and no lock.
type throttle struct {
	host       string
	slots      chan struct{}
	configured float64 // requests a second of the whole fleet
	tell       func()  // that there is news for the others; not from under mu

	pending  atomic.Int64 // requests that wait or are under way
	asked    atomic.Int64 // when the last one was, in time since answers.born
	answers  recent       // that were no 429
	held     atomic.Bool  // there is a pause or a limit: to be looked at under mu
	refusals atomic.Int32 // pauses in a row without an accepted answer between them
	suspects suspects     // kinds of requests that alone are refused

	next chan struct{} // held by the one who waits for the next token

	mu      sync.Mutex
	changed chan struct{} // closed when what is waited for is another
	bucket  *rate.Limiter // nil while there is no limit
	failure failure
	pause   pause
	fleet   share
}

// pause is the last one there was of a host, and what had been going on.
type pause struct {
	began     time.Time
	ends      time.Time // a request sent before is not the cause of another pause
	limit     float64   // in force shortly before it began
	unlimited bool      // there was none
	searching bool      // it was that of a search
	short     bool      // the last pause was less than a second before
	accepted  float64   // in the last second, from ourselves
	others    float64   // the same, from all others
}

func (p pause) left(now time.Time) time.Duration { return p.ends.Sub(now) }

func newThrottle(host string, slots int, configured float64, tell func()) *throttle {
	h := &throttle{
		host:       host,
		slots:      make(chan struct{}, slots),
		configured: configured,
		tell:       tell,
		answers:    recent{born: time.Now()},
		next:       make(chan struct{}, 1),
		changed:    make(chan struct{}),
	}
	h.held.Store(!math.IsInf(configured, 1))
	return h
}

// enter waits for a request's turn, which is not working time of the image,
// and tells when it was. leave gives it back.
func (h *throttle) enter(ctx context.Context) (sent time.Time, err error) {
	now := time.Now()
	if first := h.arrive(now); first {
		h.tell() // the others' shares are smaller from now on
	}
	if !h.held.Load() {
		select {
		case h.slots <- struct{}{}:
			return now, nil
		default:
		}
	}
	resume := deadline.Pause(ctx, deadline.Rate)
	defer resume()
	for {
		if err := h.sitOut(ctx); err != nil {
			h.depart()
			return time.Time{}, err
		}
		if err := acquire(ctx, h.slots); err != nil {
			h.depart()
			return time.Time{}, err
		}
		if !h.held.Load() {
			return time.Now(), nil
		}
		sent, granted, err := h.token(ctx)
		if granted {
			return sent, nil
		}
		<-h.slots // a pause has begun: others may have it meanwhile
		if err != nil {
			h.depart()
			return time.Time{}, err
		}
	}
}

func (h *throttle) leave() {
	<-h.slots
	h.depart()
}

// arrive notes a request, and reports whether it is the first after a time
// without demand.
func (h *throttle) arrive(now time.Time) (first bool) {
	if h.pending.Add(1) > 1 {
		return false
	}
	last := h.asked.Load()
	return last == 0 || int64(now.Sub(h.answers.born))-last >= int64(demandLasts)
}

func (h *throttle) depart() {
	h.asked.Store(max(int64(time.Since(h.answers.born)), 1))
	h.pending.Add(-1)
}

// sitOut returns when the host is not paused, and at once when it is for long.
func (h *throttle) sitOut(ctx context.Context) error {
	for h.held.Load() {
		h.mu.Lock()
		left, changed := h.pause.left(time.Now()), h.changed
		h.mu.Unlock()
		switch {
		case left <= 0:
			return nil
		case left > maxSitOut:
			return &ThrottledError{Host: h.host, For: left}
		}
		if err := await(ctx, left, changed); err != nil {
			return err
		}
	}
	return nil
}

// token waits for one, unless a pause begins. Only one request at a time waits
// for the next: it alone has to be told when the rate changes.
func (h *throttle) token(ctx context.Context) (sent time.Time, granted bool, err error) {
	if err := acquire(ctx, h.next); err != nil {
		return time.Time{}, false, err
	}
	defer func() { <-h.next }()
	for {
		now := time.Now()
		reserved, changed, paused := h.reserve(now)
		switch {
		case paused:
			return time.Time{}, false, nil
		case reserved == nil || reserved.DelayFrom(now) == 0:
			return now, true, nil
		}
		due := now.Add(reserved.DelayFrom(now))
		err := await(ctx, due.Sub(now), changed)
		now = time.Now()
		if err == nil && !now.Before(due) && !h.paused(now) {
			return now, true, nil
		}
		reserved.CancelAt(now)
		if err != nil {
			return time.Time{}, false, err
		}
	}
}

// reserve takes the next token at the rate of now; none is needed without a limit.
func (h *throttle) reserve(now time.Time) (reserved *rate.Reservation, changed <-chan struct{}, paused bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pause.left(now) > 0 {
		return nil, nil, true
	}
	limit := h.limit(now)
	if math.IsInf(limit, 1) {
		h.bucket, h.failure = nil, failure{}
		h.held.Store(false)
		return nil, nil, false
	}
	own := limit / float64(h.fleet.others+1)
	if h.bucket == nil {
		h.bucket = rate.NewLimiter(rate.Limit(own), burst(own))
	}
	h.bucket.SetLimitAt(now, rate.Limit(own))
	if most := burst(own); most != h.bucket.Burst() {
		h.bucket.SetBurstAt(now, most)
	}
	return h.bucket.ReserveN(now, 1), h.changed, false
}

// limit is the one in force for the whole fleet. Needs mu.
func (h *throttle) limit(now time.Time) float64 {
	return min(h.configured, h.failure.limit(now))
}

func (h *throttle) paused(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pause.left(now) > 0
}

// accepted notes an answer that was no refusal, to a request of a kind that was
// sent at sent.
func (h *throttle) accepted(kind string, sent, now time.Time) {
	h.answers.add(now)
	if h.refusals.Load() == 0 && !h.suspects.some.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.suspects.accept(kind)
	if !sent.Before(h.pause.ends) {
		h.refusals.Store(0)
	}
}

// refusal is an answer that wants us to wait.
type refusal struct {
	kind    string        // of the request
	sent    time.Time     // the request
	after   time.Duration // what it asks for; 0: nothing
	tooMany bool          // it was a 429: the rate was too much
}

// verdict is what a refusal comes to.
type verdict struct {
	left  time.Duration // how long the host is left alone
	alone bool          // by requests of this kind, the others go on
	news  bool          // which the others ought to hear
}

// refused begins the pause that a refusal asks for. The refusals of requests
// that were all sent before it are one failure, and so are those that come
// before anything was accepted again: they can make the pause longer, but say
// nothing new of the rate.
func (h *throttle) refused(r refusal, now time.Time) verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := r.after
	if another := !r.sent.Before(h.pause.ends); another {
		n := int(h.refusals.Load()) + 1
		if n == 1 {
			if alone, times := h.suspects.refuse(r.kind); alone {
				return verdict{left: min(max(wait, pauseAfter(times)), maxPause), alone: true}
			}
		}
		h.refusals.Store(int32(n)) //nolint:gosec // a pause each, of a second or more
		h.begin(now, n)
		if n == 1 && r.tooMany {
			h.failure = h.pause.failed()
		}
		if wait == 0 {
			wait = pauseAfter(n)
		}
	}
	until := now.Add(min(wait, maxPause))
	if !until.After(h.pause.ends) {
		return verdict{left: h.pause.left(now)}
	}
	news := until.Sub(h.pause.ends) > heardLate
	h.until(until)
	return verdict{left: h.pause.left(now), news: news}
}

// begin begins a pause, the nth without an accepted answer between them, and
// notes what went on before. Needs mu.
func (h *throttle) begin(now time.Time, n int) {
	p := &h.pause
	p.accepted = h.acceptedRate(now)
	if n > 1 {
		return
	}
	p.short = now.Sub(p.ends) < time.Second
	p.limit = h.limit(now)
	p.unlimited = math.IsInf(p.limit, 1)
	if !p.short && !p.unlimited {
		p.limit = h.limit(now.Add(-noticed))
	}
	p.searching = h.failure.search && p.limit < h.configured
	p.began, p.others = now, h.fleet.accepted
	if !p.unlimited {
		// What was heard of the others is of another time. They have the same share.
		p.others = p.accepted * float64(h.fleet.others)
	}
}

// until makes the pause last to its new end. Needs mu.
func (h *throttle) until(end time.Time) {
	h.pause.ends = end
	if h.failedNow() {
		h.failure.since = end
	}
	h.wake()
}

// failedNow reports that the failure is that of the last pause. Needs mu.
func (h *throttle) failedNow() bool {
	return h.failure.rate > 0 && !h.failure.since.Before(h.pause.began)
}

// wake tells those who wait that what they wait for is another. Needs mu.
func (h *throttle) wake() {
	h.held.Store(true)
	close(h.changed)
	h.changed = make(chan struct{})
}

// acceptedRate is how much the host accepted from us in the last second, or in
// the one before the pause. Needs mu.
func (h *throttle) acceptedRate(now time.Time) float64 {
	if h.pause.left(now) > 0 {
		return h.pause.accepted
	}
	return h.answers.lastSecond(now)
}

// acquire takes a place in free.
func acquire(ctx context.Context, free chan struct{}) error {
	select {
	case free <- struct{}{}:
		return nil
	default:
	}
	select {
	case free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await returns after wait, or sooner when what is waited for has changed.
func await(ctx context.Context, wait time.Duration, changed <-chan struct{}) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
