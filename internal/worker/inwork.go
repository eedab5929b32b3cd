package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/queue"
)

// errCrowded is the cause of the end of work on an image at a silent registry
// whose slot somebody else may need.
var errCrowded = errors.New("its registry is silent and holds too many slots")

// maxHosts is how many registries are remembered before those are forgotten
// that are not left alone just now.
const maxHosts = 1024

// inWork is what a worker has in hand, and what it has seen of the registries
// that it is about. It decides which image may begin and which has to make room.
type inWork struct {
	options Options
	log     *zap.Logger

	mu    sync.Mutex
	jobs  map[string]bool // by the key of the request
	stays map[*stay]bool
	hosts map[string]*host
}

// host is a registry, by its name in references.
type host struct {
	name    string
	stays   int
	breaker breaker
	silence silence
}

// stay is an image that is being signed.
type stay struct {
	inWork *inWork
	job    *job
	host   *host
	began  time.Time
	clock  *deadline.Clock // of the attempt; nil before it begins
	abort  context.CancelCauseFunc
}

// away says why an image may not begin now, and how long it has to stay away.
type away struct {
	after  time.Duration
	spread time.Duration // those that come back together are spread over this
	reason string
}

func newInWork(o Options, log *zap.Logger) *inWork {
	return &inWork{options: o, log: log, jobs: make(map[string]bool), stays: make(map[*stay]bool), hosts: make(map[string]*host)}
}

// hostOf is the registry of a reference.
func hostOf(reference string) string {
	host, _, _ := strings.Cut(reference, "/")
	return host
}

// take puts a job in hand, unless the same request is there already.
func (w *inWork) take(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.jobs[j.key()] {
		return false
	}
	w.jobs[j.key()] = true
	return true
}

func (w *inWork) drop(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.jobs, j.key())
}

// enter lets an image begin at its registry, with a context that ends when it
// has to stop, or says how long it has to stay away.
func (w *inWork) enter(ctx context.Context, j *job) (context.Context, *stay, *away) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	h := w.host(j.host)
	if wait := h.breaker.wait(now, w.options.BreakerFor); wait > 0 {
		return nil, nil, &away{after: wait, spread: w.options.BreakerFor, reason: h.breaker.why(h.name)}
	}
	if silent := w.silent(h, now); silent > 0 && len(w.crowd(j.lane, now)) >= w.share(j.lane) {
		return nil, nil, w.crowded(h, silent)
	}
	s := &stay{inWork: w, job: j, host: h, began: now}
	ctx, s.abort = context.WithCancelCause(ctx)
	w.stays[s] = true
	h.stays++
	h.breaker.enter(s)
	h.silence.enter(now)
	return ctx, s, nil
}

// begins notes the clock of the attempt.
func (s *stay) begins(clock *deadline.Clock) {
	s.inWork.mu.Lock()
	defer s.inWork.mu.Unlock()
	s.clock = clock
}

// leave ends a stay; all that was to be said of its registry has been said.
func (s *stay) leave() {
	w := s.inWork
	w.mu.Lock()
	defer w.mu.Unlock()
	s.abort(nil)
	delete(w.stays, s)
	s.host.stays--
	s.host.breaker.leave(s)
	if s.host.stays == 0 && s.host.breaker.failures == 0 {
		s.host.silence.end()
	}
}

// answered says that the registry has had its say on an image, whatever it was.
func (s *stay) answered() {
	w := s.inWork
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	s.host.silence.answer(now, now.Sub(s.began), s.host.stays-1)
	if s.host.breaker.answer() {
		w.log.Info("a registry is well again", zap.String("registry", s.host.name))
	}
}

// failed says that an image came to nothing because of its registry.
func (s *stay) failed(err error) {
	w := s.inWork
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.host.breaker.fail(s, time.Now(), w.options, err.Error()) {
		w.log.Warn("a registry fails, its images wait", zap.String("registry", s.host.name),
			zap.Int("failures", s.host.breaker.failures), zap.Duration("for", w.options.BreakerFor), zap.Error(err))
	}
}

// makeRoom aborts what silent registries hold of a full lane beyond their
// share, the latest first: those have the least to lose.
func (w *inWork) makeRoom() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, lane := range []string{queue.LaneBulk, queue.LaneEvent} {
		full := 0
		for s := range w.stays {
			if s.job.lane == lane {
				full++
			}
		}
		if full < w.slots(lane) {
			continue
		}
		crowd := w.crowd(lane, now)
		if len(crowd) <= w.share(lane) {
			continue
		}
		slices.SortFunc(crowd, func(a, b *stay) int { return a.began.Compare(b.began) })
		for _, s := range crowd[w.share(lane):] {
			s.abort(errCrowded)
		}
	}
}

// abortCancelled aborts the images of what was cancelled.
func (w *inWork) abortCancelled(cancelled func(queue.Request) bool) {
	w.mu.Lock()
	stays := slices.Collect(maps.Keys(w.stays))
	w.mu.Unlock()
	for _, s := range stays {
		if cancelled(s.job.request) {
			s.abort(errCancelled)
		}
	}
}

// count is how many jobs are in hand.
func (w *inWork) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.jobs)
}

// told are the registries that are left alone, the first to be tried again first.
func (w *inWork) told() []queue.HostState {
	w.mu.Lock()
	defer w.mu.Unlock()
	var open []*host
	for _, h := range w.hosts {
		if !h.breaker.closed() {
			open = append(open, h)
		}
	}
	slices.SortFunc(open, func(a, b *host) int {
		return cmp.Or(a.breaker.until.Compare(b.breaker.until), strings.Compare(a.name, b.name))
	})
	var states []queue.HostState
	for _, h := range open {
		states = append(states, queue.HostState{Host: h.name, InWork: h.stays, Open: true, Until: h.breaker.until.UTC(), Reason: h.breaker.reason})
	}
	return states
}

// host is what is known of a registry. Needs mu, as all below.
func (w *inWork) host(name string) *host {
	h, ok := w.hosts[name]
	if ok {
		return h
	}
	if len(w.hosts) >= maxHosts {
		now := time.Now()
		maps.DeleteFunc(w.hosts, func(_ string, h *host) bool { return h.stays == 0 && !now.Before(h.breaker.until) })
	}
	h = &host{name: name}
	w.hosts[name] = h
	return h
}

// silent is for how long a registry has been silent beyond its time. The silence
// is not the registry's while its images wait for a turn: for the locks of a
// queue that is away, all of them do.
func (w *inWork) silent(h *host, now time.Time) time.Duration {
	lasts := h.silence.lasts(now, w.options.SlowAfter)
	if lasts == 0 {
		return 0
	}
	heard, longest := true, time.Duration(0)
	for s := range w.stays {
		if s.host == h && s.clock != nil {
			heard, longest = false, max(longest, s.clock.Working()-w.options.SlowAfter)
		}
	}
	if heard {
		return lasts // nobody is there to say otherwise
	}
	return min(lasts, longest)
}

// crowd are the images of a lane whose registries are silent.
func (w *inWork) crowd(lane string, now time.Time) []*stay {
	var crowd []*stay
	for s := range w.stays {
		if s.job.lane == lane && w.silent(s.host, now) > 0 {
			crowd = append(crowd, s)
		}
	}
	return crowd
}

// slots are how many images a lane may have in work.
func (w *inWork) slots(lane string) int {
	if lane == queue.LaneEvent {
		return w.options.EventJobs
	}
	return w.options.Jobs
}

// share is how many of them silent registries may have together.
func (w *inWork) share(lane string) int { return max(1, w.slots(lane)/2) }

func (w *inWork) crowded(h *host, silent time.Duration) *away {
	after := pace(silent, w.options.BreakerFor)
	return &away{after: after, spread: after, reason: fmt.Sprintf("%s has not answered for %s, few images at a time wait for it",
		h.name, time.Since(h.silence.since).Round(time.Second))}
}
