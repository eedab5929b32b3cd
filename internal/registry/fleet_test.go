package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
)

const (
	modelHost = "registry.example.com"
	modelBody = `{"schemaVersion":2}`
)

// limiter is how a registry counts what it allows.
type limiter interface{ allow(now time.Time) bool }

// window allows so many in each second of the clock.
type window struct {
	most  int
	at    int64
	count int
}

func (w *window) allow(now time.Time) bool {
	if second := now.Unix(); second != w.at {
		w.at, w.count = second, 0
	}
	w.count++
	return w.count <= w.most
}

// bucket allows so many a second, and a burst.
type bucket struct {
	rate, burst, tokens float64
	last                time.Time
}

func (b *bucket) allow(now time.Time) bool {
	if b.last.IsZero() {
		b.tokens, b.last = b.burst, now
	}
	b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.last).Seconds())
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// limited is a registry that answers 429 above its limit, in the time of a
// bubble.
type limited struct {
	mu         sync.Mutex
	limiter    limiter
	latency    time.Duration
	retryAfter string

	accepted, refused int
	seconds           map[int64]int // accepted, by second since began
	began             time.Time
}

func (l *limited) RoundTrip(req *http.Request) (*http.Response, error) {
	jitter := time.Duration(rand.Int64N(int64(l.latency)/2 + 1))
	time.Sleep(l.latency/2 + jitter/2) // of the bubble
	ok := l.ask()
	time.Sleep(l.latency/2 + jitter/2) // of the bubble
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: req, ProtoMajor: 1}
	body := modelBody
	resp.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	resp.Header.Set("Docker-Content-Digest", digest.FromString(modelBody).String())
	if !ok {
		body = ""
		resp.StatusCode = http.StatusTooManyRequests
		resp.Header = http.Header{}
		if l.retryAfter != "" {
			resp.Header.Set("Retry-After", l.retryAfter)
		}
	}
	resp.Body = io.NopCloser(strings.NewReader(body))
	return resp, nil
}

func (l *limited) ask() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.limiter.allow(now) {
		l.refused++
		return false
	}
	l.accepted++
	l.seconds[int64(now.Sub(l.began)/time.Second)]++
	return true
}

// share is how much of rate was used between two seconds, and the least that
// was in any ten of them.
func (l *limited) share(from, to int64, rate float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := 0
	for second := from; second < to; second++ {
		sum += l.seconds[second]
	}
	return float64(sum) / (rate * float64(to-from))
}

// board is where the workers of a fleet put their loads.
type board struct {
	t        *testing.T
	registry *limited
	late     time.Duration

	mu      sync.Mutex
	workers map[string]*member
	running sync.WaitGroup
}

type member struct {
	client *registry.Client
	stop   context.CancelFunc
	news   chan struct{} // that the others ought to hear soon
	loads  []registry.HostLoad
	at     time.Time
}

// join starts a worker of eight requesters, which tells its loads every five
// seconds and at each pause.
func (b *board) join(name string) {
	o := machine(b.t)
	o.TLSVerify = nil
	o.Transport = b.registry
	m := &member{news: make(chan struct{}, 1)}
	o.OnThrottled = func(string) { m.speak() }
	client, err := registry.New(o)
	require.NoError(b.t, err)
	repository, err := client.Repository(modelHost + "/team/app")
	require.NoError(b.t, err)
	ctx, stop := context.WithCancel(b.t.Context())
	m.client, m.stop = client, stop
	b.mu.Lock()
	b.workers[name] = m
	b.mu.Unlock()
	b.exchange(name)

	for range 8 {
		b.running.Go(func() {
			for ctx.Err() == nil {
				if _, err := repository.Manifest(ctx, "v1"); err != nil && !errors.Is(err, context.Canceled) {
					b.t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	b.running.Go(func() {
		defer client.Close()
		heartbeat := time.NewTicker(5 * time.Second)
		defer heartbeat.Stop()
		for {
			select {
			case <-heartbeat.C:
				b.exchange(name)
			case <-m.news:
				time.Sleep(b.late) // of the bubble
				b.exchange(name)
			case <-ctx.Done():
				return
			}
		}
	})
}

func (b *board) leave(name string) {
	b.mu.Lock()
	m := b.workers[name]
	delete(b.workers, name)
	b.mu.Unlock()
	m.stop()
}

func (m *member) speak() {
	select {
	case m.news <- struct{}{}:
	default: // it will
	}
}

// exchange puts a worker's loads, tells them to the others, and gives it those
// of the others. Who hears of a pause that it has not told of answers.
func (b *board) exchange(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.workers[name]
	if !ok {
		return
	}
	m.loads, m.at = m.client.Loads(), time.Now()
	m.client.Heed(modelHost, b.others(name))
	for other, hears := range b.workers {
		if other == name {
			continue
		}
		fleet := b.others(other)
		fleet.Early = true
		hears.client.Heed(modelHost, fleet)
		if paused(m.loads, 0) && !paused(hears.loads, time.Since(hears.at)) {
			hears.speak()
		}
	}
}

func paused(loads []registry.HostLoad, age time.Duration) bool {
	return slices.ContainsFunc(loads, func(l registry.HostLoad) bool { return l.PausedFor > age })
}

// others puts together the loads of all but one. Needs mu.
func (b *board) others(but string) registry.FleetLoad {
	var fleet registry.FleetLoad
	for _, name := range slices.Sorted(maps.Keys(b.workers)) {
		if name == but {
			continue
		}
		m := b.workers[name]
		for _, load := range m.loads {
			fleet.Add(load, time.Since(m.at))
		}
	}
	return fleet
}

// TestAFleetUsesWhatARegistryAllows is a model in the time of a bubble: nothing
// in it depends on how fast the machine is.
func TestAFleetUsesWhatARegistryAllows(t *testing.T) {
	t.Parallel()
	const allowed, least = 100, 0.8
	limiters := map[string]func() limiter{
		"fixed window": func() limiter { return &window{most: allowed} },
		"burst of 20":  func() limiter { return &bucket{rate: allowed, burst: 20} },
		"burst of 100": func() limiter { return &bucket{rate: allowed, burst: 100} },
	}
	latencies := map[string]time.Duration{"fast": 4 * time.Millisecond, "far": 80 * time.Millisecond}
	courses := map[string]func(*board){
		"four": func(*board) { time.Sleep(time.Minute) }, // of the bubble
		"four, then one joins": func(b *board) {
			time.Sleep(20 * time.Second) // of the bubble
			b.join("e")
			time.Sleep(40 * time.Second) // of the bubble
		},
		"four, then one leaves": func(b *board) {
			time.Sleep(20 * time.Second) // of the bubble
			b.leave("d")
			time.Sleep(40 * time.Second) // of the bubble
		},
	}
	for name, newLimiter := range limiters {
		for far, latency := range latencies {
			for course, run := range courses {
				for _, retryAfter := range []string{"", "1"} {
					t.Run(fmt.Sprintf("%s/%s/%s/%q", name, far, course, retryAfter), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) {
							served := &limited{limiter: newLimiter(), latency: latency, retryAfter: retryAfter,
								seconds: make(map[int64]int), began: time.Now()}
							b := &board{t: t, registry: served, late: 20 * time.Millisecond, workers: make(map[string]*member)}
							for _, name := range []string{"a", "b", "c", "d"} {
								b.join(name)
							}
							run(b)
							for _, name := range slices.Sorted(maps.Keys(b.workers)) {
								b.leave(name)
							}
							b.running.Wait()
							share := served.share(0, 60, allowed)
							t.Logf("%.1f %% used (%.1f %% in the first 10 s, %.1f %% after 20 s), %d of %d refused",
								100*share, 100*served.share(0, 10, allowed), 100*served.share(20, 60, allowed), served.refused, served.accepted+served.refused)
							require.GreaterOrEqual(t, share, least)
						})
					})
				}
			}
		}
	}
}
