package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
)

// gate is a throttle that does nothing but write down what it is told.
type gate struct {
	throttled chan struct{}

	mu     sync.Mutex
	loads  []registry.HostLoad
	heeded []heeding
}

type heeding struct {
	at   time.Time
	host string
	load registry.FleetLoad
}

func newGate(loads ...registry.HostLoad) *gate {
	return &gate{throttled: make(chan struct{}, 1), loads: loads}
}

func (g *gate) Loads() []registry.HostLoad {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.loads)
}

func (g *gate) Heed(host string, load registry.FleetLoad) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heeded = append(g.heeded, heeding{time.Now(), host, load})
	for i := range g.loads {
		if g.loads[i].Host == host {
			g.loads[i].PausedFor = max(g.loads[i].PausedFor, load.PausedFor)
		}
	}
}

func (g *gate) Throttled() <-chan struct{} { return g.throttled }

// has sets what this worker has at hosts.
func (g *gate) has(loads ...registry.HostLoad) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loads = loads
}

// refuse is a 429 of a host.
func (g *gate) refuse(loads ...registry.HostLoad) {
	g.has(loads...)
	select {
	case g.throttled <- struct{}{}:
	default:
	}
}

// last is what was heeded of a host last, and all that was since some time.
func (g *gate) last(host string) registry.FleetLoad {
	all := g.since(time.Time{}, host)
	if len(all) == 0 {
		return registry.FleetLoad{}
	}
	return all[len(all)-1].load
}

func (g *gate) since(begin time.Time, host string) []heeding {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []heeding
	for _, h := range g.heeded {
		if h.host == host && !h.at.Before(begin) {
			all = append(all, h)
		}
	}
	return all
}

const busy = "r.example" // a registry

func asking(demand int, accepted float64) registry.HostLoad {
	return registry.HostLoad{Host: busy, Demand: demand, Accepted: accepted}
}

func refusedLoad(demand int, accepted float64, pause time.Duration, rate float64) registry.HostLoad {
	return registry.HostLoad{Host: busy, Demand: demand, Accepted: accepted, PausedFor: pause, Failure: &registry.RateFailure{Rate: rate}}
}

// sharer runs a worker without work of its own until the returned function is called.
func sharer(t *testing.T, b *book, name string, g Throttle) (drain func()) {
	t.Helper()
	o := DefaultOptions()
	o.Name, o.Throttle = name, g
	return run(t, newWorker(b, signerFunc(signsAtOnce), o, zap.NewNop()), laneFrom(queue.LaneBulk, 1, nil))
}

func TestWorkersKnowWhoElseAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		one, two, idle := newGate(asking(3, 20)), newGate(asking(1, 30)), newGate()
		defer sharer(t, b, "w1", one)()
		time.Sleep(time.Second)
		defer sharer(t, b, "w2", two)()
		defer sharer(t, b, "w3", idle)()
		synctest.Wait()
		require.Equal(t, registry.FleetLoad{Early: true, Others: 1, Accepted: 30}, one.last(busy), "at once")
		require.Equal(t, registry.FleetLoad{Early: true, Others: 1, Accepted: 20}, two.last(busy), "at once")
		require.Equal(t, registry.FleetLoad{Early: true, Others: 2, Accepted: 50}, idle.last(busy))
		two.has(asking(2, 31))
		time.Sleep(11 * time.Second)
		require.Equal(t, registry.FleetLoad{Others: 1, Accepted: 31}, one.last(busy))
		require.Empty(t, one.since(time.Time{}, "other.example"))
	})
}

// A worker that begins at a host does not wait for its next announcement.
func TestNewDemandIsToldSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		one, two := newGate(asking(3, 20)), newGate()
		defer sharer(t, b, "w1", one)()
		defer sharer(t, b, "w2", two)()
		time.Sleep(11 * time.Second)
		require.Zero(t, one.last(busy).Others)
		said := len(b.saidBy("w2"))
		two.has(asking(1, 0))
		time.Sleep(time.Second)
		require.Equal(t, 1, one.last(busy).Others)
		require.Len(t, b.saidBy("w2"), said+1)
	})
}

func TestRefusalIsToldAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		one, two := newGate(asking(3, 20)), newGate(asking(1, 30))
		defer sharer(t, b, "w1", one)()
		defer sharer(t, b, "w2", two)()
		time.Sleep(2 * time.Second)
		began, said := time.Now(), len(b.saidBy("w1"))
		one.refuse(refusedLoad(3, 20, time.Second, 20))
		synctest.Wait()
		require.Equal(t, registry.FleetLoad{
			Early: true, Others: 1, Accepted: 20, PausedFor: time.Second, Failure: &registry.RateFailure{Rate: 20},
		}, two.last(busy))
		require.Zero(t, time.Since(began))
		require.Len(t, b.saidBy("w1"), said+1)
		require.Len(t, one.since(began, busy), 1, "the other answers, once")

		// What comes right behind it is told together.
		for i := range 10 {
			one.refuse(refusedLoad(3, 20, time.Duration(i)*time.Second, 20))
			time.Sleep(time.Millisecond)
		}
		require.Len(t, b.saidBy("w1"), said+1)
		time.Sleep(200 * time.Millisecond)
		require.Len(t, b.saidBy("w1"), said+2)
		require.Equal(t, 9*time.Second, two.last(busy).PausedFor)
	})
}

// What was too much is known when all who had a part in it have told of it.
func TestPauseOfAnotherIsAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		one, two := newGate(asking(3, 0)), newGate(asking(1, 0))
		defer sharer(t, b, "w1", one)()
		defer sharer(t, b, "w2", two)()
		time.Sleep(time.Second)
		two.has(asking(1, 30)) // not told yet
		began := time.Now()
		one.refuse(refusedLoad(3, 20, time.Second, 20))
		time.Sleep(time.Millisecond)
		require.Equal(t, 30.0, one.last(busy).Accepted)
		time.Sleep(time.Second)
		require.Len(t, b.saidBy("w2"), 2, "once when it began, once in answer")
		require.Len(t, two.since(began, busy), 1)
	})
}

// A share that has become free is given out beat by beat: whoever heeds it takes it
// from the second time on.
func TestShareOfWhoLeavesIsFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		one, two := newGate(asking(3, 20)), newGate(asking(1, 30))
		defer sharer(t, b, "w1", one)()
		drain := sharer(t, b, "w2", two)
		time.Sleep(11 * time.Second)
		drain()
		left := time.Now()
		time.Sleep(11 * time.Second)
		heeded := one.since(left, busy)
		require.Len(t, heeded, 2)
		for i, h := range heeded {
			require.Zero(t, h.load)
			require.Equal(t, time.Duration(4+5*i)*time.Second, h.at.Sub(left))
		}
	})
}

// A worker that died is forgotten after its time.
func TestShareOfTheDeadIsFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		one := newGate(asking(3, 20))
		defer sharer(t, b, "w1", one)()
		synctest.Wait()
		require.NoError(t, b.Announce(t.Context(), queue.Presence{Worker: "w2", Hosts: []queue.HostState{{Host: busy, Demand: 1}}}))
		time.Sleep(14 * time.Second)
		require.Equal(t, 1, one.last(busy).Others)
		time.Sleep(7 * time.Second)
		require.Zero(t, one.last(busy).Others)
		heeded := len(one.since(time.Time{}, busy))
		time.Sleep(time.Minute)
		require.LessOrEqual(t, len(one.since(time.Time{}, busy)), heeded+2, "who has nothing to say of a host is silent")
	})
}

// Without the queue the last share stays, and the others are not dead when it is back.
func TestShareStaysWithoutTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		var mu sync.Mutex
		away := false
		b.before = func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return errors.New("no connection")
			}
			return nil
		}
		set := func(to bool) {
			mu.Lock()
			defer mu.Unlock()
			away = to
		}
		one, two := newGate(asking(3, 20)), newGate(asking(1, 30))
		defer sharer(t, b, "w1", one)()
		time.Sleep(3 * time.Second)
		defer sharer(t, b, "w2", two)()
		time.Sleep(10 * time.Second)
		lost := time.Now()
		set(true)
		time.Sleep(10 * time.Minute)
		set(false)
		time.Sleep(time.Minute)
		for _, g := range []*gate{one, two} {
			for _, h := range g.since(lost, busy) {
				require.Equal(t, 1, h.load.Others)
			}
			require.NotEmpty(t, g.since(lost, busy))
		}
	})
}

// A queue that does not let a worker hear the others is complained of once.
func TestWorkerThatCannotHear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.before = onStep("hear", func(context.Context) error { return &queue.DeniedError{Subject: "$KV.SIGN_WORKERS.*", Hearing: true} })
		core, seen := observer.New(zap.WarnLevel)
		o := DefaultOptions()
		o.Name = "w1"
		drain := run(t, newWorker(b, signerFunc(signsAtOnce), o, zap.New(core)), laneFrom(queue.LaneBulk, 1, nil))
		time.Sleep(time.Minute)
		drain()
		require.Greater(t, len(b.saidBy("w1")), 10)
		require.Equal(t, 1, seen.Len())
		require.Equal(t, 1, seen.FilterMessageSnippet("cannot hear the other workers").Len())
	})
}

func TestWhatOthersToldAges(t *testing.T) {
	t.Parallel()
	failed := func(rate float64, ago, paused time.Duration) queue.HostState {
		// The pause had been for a second when it was told, or had lasted that long.
		return queue.HostState{Host: busy, FailedRate: rate, FailedBegan: queue.Seconds(ago + time.Second), FailedAgo: queue.Seconds(ago), PausedFor: queue.Seconds(paused)}
	}
	failure := func(rate float64, began, ago time.Duration) *registry.RateFailure {
		return &registry.RateFailure{Rate: rate, Began: began, Ago: ago}
	}
	for name, test := range map[string]struct {
		told   []queue.HostState
		paused time.Duration
		want   *registry.RateFailure
	}{
		"nothing":                       {[]queue.HostState{{Host: busy}}, 0, nil},
		"a failure":                     {[]queue.HostState{failed(50, 7*time.Second, 0)}, 0, failure(50, 11*time.Second, 10*time.Second)},
		"a pause goes on":               {[]queue.HostState{failed(50, 0, 5*time.Second)}, 2 * time.Second, failure(50, 4*time.Second, 0)},
		"a pause is over":               {[]queue.HostState{failed(50, 0, time.Second)}, 0, failure(50, 4*time.Second, 2*time.Second)},
		"the longest pause":             {[]queue.HostState{failed(50, 0, time.Second), {Host: busy, PausedFor: queue.Seconds(time.Minute)}}, 57 * time.Second, failure(50, 4*time.Second, 2*time.Second)},
		"the newest failure":            {[]queue.HostState{failed(90, time.Minute, 0), failed(50, 2*time.Second, 0), failed(70, 20*time.Second, 0)}, 0, failure(50, 6*time.Second, 5*time.Second)},
		"the best known of one failure": {[]queue.HostState{failed(50, 2*time.Second, 0), failed(80, 2500*time.Millisecond, 0)}, 0, failure(80, 6*time.Second, 5*time.Second)},
		"a stranger's":                  {[]queue.HostState{{Host: busy, FailedRate: -1, Accepted: -5, Demand: -1}}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				s := newSharing(Options{Name: "w1", Throttle: g, AnnounceEvery: 5 * time.Second})
				for i, state := range test.told {
					s.hear(queue.Presence{Worker: fmt.Sprintf("w%d", i+2), Hosts: []queue.HostState{state}}, 2*time.Second)
				}
				time.Sleep(time.Second)
				s.heed()
				require.Equal(t, registry.FleetLoad{PausedFor: test.paused, Failure: test.want}, g.last(busy))
			})
		})
	}
}

// However many registries there are, an announcement is a message, and tells
// what others need most.
func TestAnnouncementIsBounded(t *testing.T) {
	t.Parallel()
	g := newGate()
	var open []queue.HostState
	for i := range 300 {
		name := fmt.Sprintf("%03d.%s", i, strings.Repeat("long.", 40))
		load := registry.HostLoad{Host: name, Demand: 1 + i%7}
		switch {
		case i >= 290:
			load.PausedFor = time.Second
		case i >= 280:
			load.Failure = &registry.RateFailure{Rate: 10}
		case i < 5:
			open = append(open, queue.HostState{Host: name, Open: true, Reason: strings.Repeat("\x00", 10_000)})
		}
		g.loads = append(g.loads, load)
	}
	s := newSharing(Options{Name: "w1", Throttle: g})
	states := s.tell(open)
	require.Len(t, states, maxTold)
	for i, h := range states {
		require.Equal(t, i < 10, h.PausedFor > 0)
		require.Equal(t, i >= 10 && i < 20, h.FailedRate > 0)
		require.Equal(t, i >= 20 && i < 25, h.Open)
	}
	require.Equal(t, 7, states[25].Demand)
	data, err := json.Marshal(states)
	require.NoError(t, err)
	require.Less(t, len(data), 64<<10)
	require.False(t, s.untold(), "there is no room for more")
}
