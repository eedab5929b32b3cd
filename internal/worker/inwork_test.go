package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		status := 500
		w := testWorker(b, func(context.Context, sign.Request) (sign.Result, error) {
			if status == 200 {
				return oneSigned, nil
			}
			return sign.Result{}, answered(status, 0)
		})
		requests := numbered("r.example", 20)
		next := func() string { // the last step of the next image
			deliver(t, w, b, requests[0], 1)
			requests = requests[1:]
			made := b.made()
			return made[len(made)-1]
		}
		for range 4 {
			require.Equal(t, "nak 1s", next())
		}
		status = 404
		require.Equal(t, "ack", next(), "an answer is no failure")
		status = 500
		for range 5 {
			require.Equal(t, "nak 1s", next())
		}
		require.Equal(t, "nak 33s", next(), "the rest of its time, and jitter")
		require.Equal(t, []queue.HostState{{Host: "r.example", Open: true, Until: time.Now().Add(30 * time.Second).UTC(), Reason: answered(500, 0).Error()}}, w.inWork.told())
		time.Sleep(20 * time.Second)
		require.Equal(t, "nak 13s", next())
		time.Sleep(10 * time.Second)
		require.Equal(t, "nak 1s", next(), "the probe is an attempt")
		require.Equal(t, "nak 33s", next(), "and failed")
		time.Sleep(30 * time.Second)
		status = 200
		require.Equal(t, "ack", next())
		require.Equal(t, "ack", next())
		require.Empty(t, w.inWork.told())
	})
}

func TestBreakerIsOfOneRegistry(t *testing.T) {
	t.Parallel()
	b := newBook()
	w := testWorker(b, func(_ context.Context, r sign.Request) (sign.Result, error) {
		if strings.HasPrefix(r.Reference, "bad.example/") {
			return sign.Result{}, answered(503, 0)
		}
		return oneSigned, nil
	})
	for _, r := range numbered("bad.example", 10) {
		deliver(t, w, b, r, 1)
	}
	for _, r := range numbered("good.example", 10) {
		deliver(t, w, b, r, 1)
		require.Contains(t, b.outcomes, requestKey(r))
	}
}

// Behind an open breaker a request costs no attempt and little else.
func TestRequestBehindAnOpenBreaker(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		delivered int
		entry     *queue.Entry
		steps     []string
		left      *queue.Entry
	}{
		"first delivery": {1, nil, []string{"read ledger", "ledger", "nak 33s"}, &queue.Entry{Waited: queue.Seconds(33 * time.Second)}},
		"redelivery": {
			3, &queue.Entry{Attempts: 2, Waited: queue.Seconds(time.Minute)}, []string{"read ledger", "ledger", "nak 33s"},
			&queue.Entry{Attempts: 2, Waited: queue.Seconds(93 * time.Second)},
		},
		"after a death": {
			3, &queue.Entry{Attempts: 2, InFlight: true}, []string{"read ledger", "ledger", "nak 33s"},
			&queue.Entry{Attempts: 2, Deaths: 1, Waited: queue.Seconds(33 * time.Second)},
		},
		"for too long": {9, &queue.Entry{Waited: queue.Seconds(time.Hour - time.Second)}, []string{"read ledger", "outcome dead", "dead letter", "ack", "clear ledger"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBook()
				w := testWorker(b, failsAtOnce)
				for _, r := range numbered("r.example", 5) {
					deliver(t, w, newBook(), r, 1)
					w.records = b
				}
				b.mu.Lock()
				b.steps = nil
				b.mu.Unlock()
				r := testRequest()
				if test.entry != nil {
					b.ledger[requestKey(r)] = *test.entry
				}
				deliver(t, w, b, r, test.delivered)
				require.Equal(t, test.steps, b.made())
				entry, left := b.ledger[requestKey(r)]
				require.Equal(t, test.left != nil, left)
				if left {
					require.Equal(t, *test.left, queue.Entry{Attempts: entry.Attempts, Deaths: entry.Deaths, Waited: entry.Waited, InFlight: entry.InFlight})
					require.Equal(t, r.Reference, entry.Reference)
					require.Equal(t, RegistryUnavailable, entry.Class)
				} else {
					require.Equal(t, RegistryUnavailable, b.outcomes[requestKey(r)].Class)
					require.Zero(t, b.outcomes[requestKey(r)].Attempts)
				}
			})
		})
	}
}

// One image at a time finds out whether a registry is back, and those that
// wait for it ask less often the longer it takes.
func TestProbeIsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		slow := false
		var inside, most atomic.Int64
		w := testWorker(b, func(context.Context, sign.Request) (sign.Result, error) {
			most.Store(max(most.Load(), inside.Add(1)))
			defer inside.Add(-1)
			if slow {
				time.Sleep(10 * time.Second)
			}
			return sign.Result{}, answered(500, 0)
		})
		requests := numbered("r.example", 40)
		for _, r := range requests[:5] {
			deliver(t, w, b, r, 1)
		}
		time.Sleep(31 * time.Second)
		slow = true
		most.Store(0)
		var all sync.WaitGroup
		for _, r := range requests[5:35] {
			all.Go(func() { deliver(t, w, b, r, 1) })
		}
		time.Sleep(8 * time.Second)
		deliver(t, w, b, requests[35], 1)
		made := b.made()
		require.Equal(t, "nak 11s", made[len(made)-1])
		all.Wait()
		require.EqualValues(t, 1, most.Load())
	})
}

// A probe that a drain cuts short leaves the probing to the next image.
func TestProbeThatSaysNothing(t *testing.T) {
	t.Parallel()
	h := newInWork(DefaultOptions(), testWorker(newBook(), nil).log)
	j := func(i int) *job { return jobOf(numbered("r.example", i+1)[i], 1, nil) }
	for i := range 5 {
		_, s, away := h.enter(t.Context(), j(i))
		require.Nil(t, away)
		s.failed(answered(500, 0))
		s.leave()
	}
	h.hosts["r.example"].breaker.until = time.Now()
	_, probe, away := h.enter(t.Context(), j(5))
	require.Nil(t, away)
	_, _, away = h.enter(t.Context(), j(6))
	require.NotNil(t, away)
	probe.leave()
	_, probe, away = h.enter(t.Context(), j(6))
	require.Nil(t, away)
	probe.answered()
	probe.leave()
	for i := range 4 {
		_, _, away = h.enter(t.Context(), j(10+i))
		require.Nil(t, away, "closed")
	}
}

// harbour is a worker on a lane with registries of which some hang.
type harbour struct {
	book *book
	jobs chan *job
	mu   sync.Mutex
	held map[string]int // images at each registry
	hang map[string]bool
	done map[string]int
	took time.Duration
	turn deadline.Turn // what images that hang wait for; "" is the registry itself
}

func openHarbour(t *testing.T, slots int, lane string) (*harbour, func()) {
	t.Helper()
	h := &harbour{book: newBook(), jobs: make(chan *job, 10_000), held: map[string]int{}, hang: map[string]bool{}, done: map[string]int{}, took: 100 * time.Millisecond}
	o := DefaultOptions()
	o.Name, o.Jobs, o.EventJobs = "w1", slots, slots
	w := newWorker(h.book, signerFunc(h.sign), o, testWorker(h.book, nil).log)
	return h, run(t, w, laneFrom(lane, slots, h.jobs))
}

func (h *harbour) sign(ctx context.Context, r sign.Request) (sign.Result, error) {
	host := hostOf(r.Reference)
	h.mu.Lock()
	h.held[host]++
	took := h.took
	if h.hang[host] {
		took = time.Hour
		if h.turn != "" {
			defer deadline.Pause(ctx, h.turn)()
		}
	}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held[host]--
	}()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return sign.Result{}, context.Cause(ctx)
	}
	h.mu.Lock()
	h.done[host]++
	h.mu.Unlock()
	return oneSigned, nil
}

func (h *harbour) send(host, lane string, n int) {
	for i := range n {
		r := testRequest()
		r.Reference = fmt.Sprintf("%s/app:%d-%d", host, i, len(h.jobs))
		j := jobOf(r.Sealed(), 1, &parcel{book: h.book})
		j.lane = lane
		h.jobs <- j
	}
}

func (h *harbour) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

func (h *harbour) seen(host string) (held, done int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[host], h.done[host]
}

// A registry that hangs leaves half of the slots to others, in each lane, and
// burns no attempts meanwhile.
func TestSilentRegistryLeavesRoom(t *testing.T) {
	t.Parallel()
	for _, lane := range []string{queue.LaneBulk, queue.LaneEvent} {
		for slots, share := range map[int]int{1: 1, 2: 1, 4: 2, 5: 2, 64: 32} {
			t.Run(fmt.Sprint(lane, " ", slots), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					h, drain := openHarbour(t, slots, lane)
					h.set(func() { h.hang["hangs.example"] = true })
					h.send("hangs.example", lane, 3*slots)
					time.Sleep(4 * time.Second)
					held, _ := h.seen("hangs.example")
					require.Equal(t, slots, held, "nothing is known yet")
					h.send("works.example", lane, 100)
					time.Sleep(3 * time.Second)
					held, _ = h.seen("hangs.example")
					require.Equal(t, share, held)
					time.Sleep(45 * time.Second)
					_, done := h.seen("works.example")
					require.Equal(t, map[bool]int{true: 0, false: 100}[slots == 1], done)
					h.book.mu.Lock()
					for _, e := range h.book.ledger {
						require.Zero(t, e.Attempts)
						require.Positive(t, e.Waited)
					}
					h.book.mu.Unlock()
					drain()
				})
			})
		}
	}
}

// Images that wait for their turn, as for the locks of a queue that is away or for
// a registry that takes few requests a second, say nothing of their registry.
func TestWaitingForATurnIsNoSilence(t *testing.T) {
	t.Parallel()
	for _, turn := range []deadline.Turn{deadline.Lock, deadline.Rate} {
		t.Run(string(turn), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, drain := openHarbour(t, 4, queue.LaneBulk)
				h.set(func() { h.hang["r.example"], h.turn = true, turn })
				h.send("r.example", queue.LaneBulk, 8)
				time.Sleep(time.Minute)
				held, _ := h.seen("r.example")
				require.Equal(t, 4, held)
				h.book.mu.Lock()
				require.Empty(t, h.book.ledger, "nothing was given back")
				h.book.mu.Unlock()
				drain()
			})
		})
	}
}

// A registry that asks to be left alone is alive: its images wait, and its
// breaker stays closed.
func TestThrottledRegistryIsNotIll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		w := testWorker(b, func(context.Context, sign.Request) (sign.Result, error) {
			return sign.Result{}, &registry.ThrottledError{Host: "r.example", For: 30 * time.Second}
		})
		for _, r := range numbered("r.example", 20) {
			deliver(t, w, b, r, 1)
			time.Sleep(time.Second)
		}
		require.Empty(t, w.inWork.told())
		require.Empty(t, b.outcomes)
		require.Len(t, b.ledger, 20)
		for _, e := range b.ledger {
			require.Zero(t, e.Attempts)
		}
	})
}

// Registries that hang share the half.
func TestSilentRegistriesTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, drain := openHarbour(t, 8, queue.LaneBulk)
		for i := range 8 {
			host := fmt.Sprintf("hangs%d.example", i)
			h.set(func() { h.hang[host] = true })
			h.send(host, queue.LaneBulk, 1)
		}
		time.Sleep(10 * time.Second)
		all := 0
		for i := range 8 {
			held, _ := h.seen(fmt.Sprintf("hangs%d.example", i))
			all += held
		}
		require.Equal(t, 4, all)
		drain()
	})
}

// A registry whose images end has all slots, also when each takes its time.
func TestRegistryThatAnswersIsNotLimited(t *testing.T) {
	t.Parallel()
	for _, took := range []time.Duration{time.Second, 4 * time.Second, 7 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			h, drain := openHarbour(t, 4, queue.LaneBulk)
			h.set(func() { h.took = 4 * time.Second })
			h.send("r.example", queue.LaneBulk, 4) // how long they take is learned
			time.Sleep(5 * time.Second)
			h.set(func() { h.took = took })
			h.send("r.example", queue.LaneBulk, 800)
			for range 200 {
				time.Sleep(497 * time.Millisecond)
				synctest.Wait()
				held, _ := h.seen("r.example")
				require.GreaterOrEqual(t, held, 3, took)
			}
			drain()
		})
	}
}

// One that comes back has all slots again.
func TestRegistryThatComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, drain := openHarbour(t, 4, queue.LaneBulk)
		h.set(func() { h.hang["r.example"] = true })
		h.send("r.example", queue.LaneBulk, 6)
		time.Sleep(30 * time.Second)
		held, _ := h.seen("r.example")
		require.Equal(t, 2, held)
		h.set(func() { h.hang["r.example"] = false })
		time.Sleep(10 * time.Minute) // the two that hang reach their timeout
		h.set(func() { h.took = 10 * time.Second })
		h.send("r.example", queue.LaneBulk, 1)
		time.Sleep(11 * time.Second)
		h.send("r.example", queue.LaneBulk, 4)
		time.Sleep(time.Second)
		held, _ = h.seen("r.example")
		require.Equal(t, 4, held)
		drain()
	})
}

func TestRegistriesAreForgottenWhenMany(t *testing.T) {
	t.Parallel()
	b := newBook()
	w := testWorker(b, signsAtOnce)
	for i := range 2 * maxHosts {
		_, s, _ := w.inWork.enter(t.Context(), jobOf(numbered(fmt.Sprintf("r%d.example", i), 1)[0], 1, nil))
		s.answered()
		s.leave()
		require.LessOrEqual(t, len(w.inWork.hosts), maxHosts)
	}
}

func TestRegistriesThatFailedAreForgottenToo(t *testing.T) {
	t.Parallel()
	w := newInWork(DefaultOptions(), zap.NewNop())
	for i := range 2 * maxHosts {
		_, s, away := w.enter(t.Context(), &job{host: fmt.Sprintf("no-such-%d.example", i), lane: queue.LaneBulk})
		require.Nil(t, away)
		s.failed(errors.New("no such host"))
		s.leave()
		require.LessOrEqual(t, len(w.hosts), maxHosts)
	}
}

func TestWhatNeverReachedTheRegistrySaysNothingOfIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		var failure error
		w := testWorker(b, func(context.Context, sign.Request) (sign.Result, error) { return sign.Result{}, failure })
		for n, r := range numbered("r.example", 40) {
			failure = answered(500, 0)
			if n%5 == 4 {
				failure = &sign.KeyError{Err: sign.ErrUnknownKey} // before the first request
			}
			deliver(t, w, b, r, 1)
		}
		require.NotEmpty(t, w.inWork.told(), "32 failures, and no answer")
	})
}
