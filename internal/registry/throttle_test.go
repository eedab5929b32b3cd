package registry

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/deadline"
)

// throttled is the way to hosts whose answers are made by answer, one second
// after they were asked.
func throttled(o Options, answer func(*http.Request) *http.Response) (http.RoundTripper, *throttles) {
	hosts := newThrottles(max(o.HostConcurrency, 1), o.HostRate, o.OnThrottled)
	send := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		resp := answer(req)
		resp.Request = req
		return resp, nil
	})
	return &throttleTransport{hosts: hosts, next: send}, hosts
}

func respond(status int, header ...string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

func get(t *testing.T, through http.RoundTripper, ctx context.Context, url string) (status int, err error) { //nolint:revive // the test comes first
	t.Helper()
	resp, err := through.RoundTrip(httptest.NewRequestWithContext(ctx, http.MethodGet, url, nil))
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func TestWaitingForASlotIsNoWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hosts := newThrottles(1, 0, nil)
		_, err := hosts.of("h").enter(t.Context())
		require.NoError(t, err)

		ctx, clock, stop := deadline.With(t.Context(), deadline.Limits{Work: time.Second, Wait: time.Hour})
		defer stop()
		go func() {
			time.Sleep(time.Minute) // of the bubble
			hosts.of("h").leave()
		}()
		_, err = hosts.of("h").enter(ctx)
		require.NoError(t, err)
		require.Equal(t, time.Minute, clock.Waited())

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = hosts.of("h").enter(ended)
		require.ErrorIs(t, err, context.Canceled)
		_, err = hosts.of("other host").enter(ended)
		require.NoError(t, err)
	})
}

func TestAWriteThatWasThrottledIsSentAgainWhole(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodPatch} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var bodies, steps []string
			through, hosts := throttled(Options{}, func(req *http.Request) *http.Response {
				body, err := io.ReadAll(req.Body)
				require.NoError(t, err)
				require.NoError(t, req.Body.Close())
				bodies = append(bodies, string(body))
				if len(bodies) < 3 {
					return respond(http.StatusTooManyRequests, "Retry-After", "7")
				}
				return respond(http.StatusCreated)
			})
			ctx := withCall(t.Context(), &call{begin: func() (func(), error) {
				steps = append(steps, fmt.Sprintf("begin %.0f", time.Since(began).Seconds()))
				return func() {
					steps = append(steps, fmt.Sprintf("end %.0f", time.Since(began).Seconds()))
					require.Len(t, hosts.of("h").slots, 1)
				}, nil
			}})
			go func() {
				time.Sleep(time.Second) // of the bubble
				require.Empty(t, hosts.of("h").slots, "no slot is held in a pause")
			}()
			req, err := http.NewRequestWithContext(ctx, method, "http://h/", strings.NewReader("whole"))
			require.NoError(t, err)
			resp, err := through.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusCreated, resp.StatusCode)
			require.Equal(t, []string{"whole", "whole", "whole"}, bodies)
			require.Equal(t, []string{"begin 0", "end 0", "begin 7", "end 7", "begin 14", "end 14"}, steps)
			require.Empty(t, hosts.of("h").slots)
		})
	}
}

func TestABodyThatCannotBeRewoundIsNotSentAgain(t *testing.T) {
	t.Parallel()
	through, _ := throttled(Options{}, func(*http.Request) *http.Response { return respond(http.StatusTooManyRequests) })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://h/", io.NopCloser(strings.NewReader("once")))
	require.NoError(t, err)
	resp, err := through.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
}

func TestPausesWithoutATimeDoubleUntilAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		refuse := true
		through, hosts := throttled(Options{}, func(*http.Request) *http.Response {
			asked = append(asked, time.Now())
			if refuse {
				return respond(http.StatusTooManyRequests)
			}
			return respond(http.StatusOK)
		})
		resp, err := through.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://h/", nil))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusTooManyRequests, resp.StatusCode, "a pause of 16 s is for others to wait out")
		require.GreaterOrEqual(t, parseRetryAfter(resp.Header, time.Now()), 16*time.Second)
		require.Len(t, asked, 5)
		for i, want := range []time.Duration{1, 2, 4, 8} {
			pause := asked[i+1].Sub(asked[i])
			require.GreaterOrEqual(t, pause, want*time.Second)
			require.LessOrEqual(t, pause, want*time.Second*6/5)
		}

		_, err = get(t, through, t.Context(), "http://h/")
		var throttled *ThrottledError
		require.ErrorAs(t, err, &throttled)
		require.Equal(t, "h", throttled.Host)
		require.Greater(t, throttled.For, 10*time.Second)
		require.Len(t, asked, 5, "nothing was sent")

		refuse = false
		time.Sleep(throttled.For - time.Second) // of the bubble
		status, err := get(t, through, t.Context(), "http://h/")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		require.Zero(t, hosts.of("h").refusals.Load())
	})
}

func TestARequestIsSentAgainTenTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		through, _ := throttled(Options{}, func(*http.Request) *http.Response {
			sent++
			return respond(http.StatusTooManyRequests, "Retry-After", "10")
		})
		status, err := get(t, through, t.Context(), "http://h/")
		require.NoError(t, err)
		require.Equal(t, http.StatusTooManyRequests, status)
		require.Equal(t, 11, sent)
	})
}

func TestPausesThatAHostNames(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status, after string
		method        string
		sent          int
		waited        time.Duration
	}{
		"429":                   {"429", "3", http.MethodPut, 2, 3 * time.Second},
		"429 by date":           {"429", "Sat, 01 Jan 2000 00:00:04 GMT", http.MethodGet, 2, 4 * time.Second},
		"429 for long":          {"429", "11", http.MethodGet, 1, 0},
		"503 of a read":         {"503", "5", http.MethodGet, 2, 5 * time.Second},
		"503 of a write":        {"503", "5", http.MethodPut, 1, 0},
		"503 of a read, long":   {"503", "30", http.MethodGet, 1, 0},
		"503 that says nothing": {"503", "", http.MethodGet, 1, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now() // midnight of 1 January 2000
				sent := 0
				through, hosts := throttled(Options{}, func(*http.Request) *http.Response {
					if sent++; sent > 1 {
						return respond(http.StatusOK)
					}
					status := http.StatusTooManyRequests
					if test.status == "503" {
						status = http.StatusServiceUnavailable
					}
					return respond(status, "Retry-After", test.after)
				})
				req := httptest.NewRequestWithContext(t.Context(), test.method, "http://h/", nil)
				resp, err := through.RoundTrip(req)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, test.sent, sent)
				require.Equal(t, test.waited, time.Since(began))
				left := hosts.of("h").load(time.Now()).PausedFor
				require.Equal(t, test.sent == 1 && test.after != "", left > 0, "%s", left)
				require.Zero(t, hosts.of("storage").load(time.Now()).PausedFor, "another host's pause is its own")
			})
		})
	}
}

func TestWaitingOutAPauseIsNoWorkAndEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		through, hosts := throttled(Options{}, func(*http.Request) *http.Response {
			return respond(http.StatusTooManyRequests, "Retry-After", "8")
		})
		ctx, clock, stop := deadline.With(t.Context(), deadline.Limits{Work: time.Second, Wait: 20 * time.Second})
		defer stop()
		_, err := get(t, through, ctx, "http://h/")
		var wait *deadline.WaitError
		require.ErrorAs(t, err, &wait)
		require.Equal(t, deadline.Rate, wait.For)
		require.Equal(t, 20*time.Second, clock.Waited())
		require.Empty(t, hosts.of("h").slots)
	})
}

func TestOneBurstIsOneFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		refuse := false
		var told atomic.Int64
		through, hosts := throttled(Options{HostConcurrency: 8, HostRate: 1000, OnThrottled: func(string) { told.Add(1) }}, func(*http.Request) *http.Response {
			time.Sleep(time.Second) // of the bubble
			mu.Lock()
			defer mu.Unlock()
			if refuse {
				return respond(http.StatusTooManyRequests, "Retry-After", "11")
			}
			return respond(http.StatusOK)
		})
		_, err := get(t, through, t.Context(), "http://h/")
		require.NoError(t, err)
		require.EqualValues(t, 1, told.Load(), "the others hear that we ask it")
		refuse = true
		var burst sync.WaitGroup
		for range 8 {
			burst.Go(func() {
				status, err := get(t, through, t.Context(), "http://h/")
				require.NoError(t, err)
				require.Equal(t, http.StatusTooManyRequests, status)
			})
		}
		burst.Wait()
		load := hosts.of("h").load(time.Now())
		require.Equal(t, &RateFailure{Rate: 1000}, load.Failure)
		require.Equal(t, 11*time.Second, load.PausedFor.Round(100*time.Millisecond))
		require.EqualValues(t, 2, told.Load())
	})
}

func TestTheConfiguredRateHoldsFromTheFirstRequestOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		through, hosts := throttled(Options{HostConcurrency: 16, HostRate: 40}, func(*http.Request) *http.Response {
			sent.Add(1)
			return respond(http.StatusOK)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ask := func() {
			var asking sync.WaitGroup
			for range 16 {
				asking.Go(func() {
					for ctx.Err() == nil {
						_, _ = get(t, through, ctx, "http://h/")
					}
				})
			}
			asking.Wait()
		}
		ask()
		require.InDelta(t, 400, sent.Load(), 5, "a burst of a tenth of a second")

		hosts.of("h").heed(FleetLoad{Others: 3}, time.Now())
		sent.Store(0)
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ask()
		require.InDelta(t, 100, sent.Load(), 2)
	})
}

// A quota of one repository is not the host's limit.
func TestWhatIsAlwaysRefusedSlowsDownNothingElse(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]string{"no time named": "", "a second": "1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				accepted := map[int64]int{} // by minute
				var mu sync.Mutex
				began := time.Now()
				through, hosts := throttled(Options{HostConcurrency: 8}, func(req *http.Request) *http.Response {
					time.Sleep(10 * time.Millisecond) // of the bubble
					if req.Method == http.MethodPut {
						return respond(http.StatusTooManyRequests, "Retry-After", after)
					}
					mu.Lock()
					defer mu.Unlock()
					accepted[int64(time.Since(began)/time.Minute)]++
					return respond(http.StatusOK)
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				var asking sync.WaitGroup
				for range 4 {
					asking.Go(func() {
						for ctx.Err() == nil {
							_, _ = get(t, through, ctx, "http://h/v2/app/manifests/1")
						}
					})
				}
				asking.Go(func() {
					for ctx.Err() == nil {
						resp, err := through.RoundTrip(httptest.NewRequestWithContext(ctx, http.MethodPut, "http://h/v2/full/manifests/1", nil))
						if err != nil {
							continue
						}
						wait := parseRetryAfter(resp.Header, time.Now())
						require.NoError(t, resp.Body.Close())
						_ = await(ctx, wait, nil)
					}
				})
				asking.Wait()
				const most = 4 * 100 * 60
				for minute := int64(1); minute < 10; minute++ {
					require.Greater(t, accepted[minute], most/2, "minute %d of %v", minute, accepted)
				}
				require.Empty(t, hosts.of("h").slots)
			})
		})
	}
}

func TestSharesOfARate(t *testing.T) {
	t.Parallel()
	var s share
	for _, step := range []struct{ heard, others int }{
		{3, 3}, {5, 5}, // a smaller share at once
		{2, 5}, {2, 2}, // a larger one the second time
		{1, 2}, {2, 2}, {1, 2}, {0, 1}, {0, 1}, {0, 0}, // of two larger ones the smaller
	} {
		s.hear(FleetLoad{Others: step.heard})
		require.Equal(t, step.others, s.others, "%+v", step)
	}
	// Between heartbeats only more of them count.
	for _, step := range []struct{ early, others int }{{3, 3}, {2, 3}, {1, 3}, {0, 3}} {
		s.hear(FleetLoad{Others: step.early, Early: true})
		require.Equal(t, step.others, s.others, "%+v", step)
	}
	s.hear(FleetLoad{Others: 1})
	s.hear(FleetLoad{Others: 1, Early: true})
	require.Equal(t, 3, s.others, "one heartbeat, whatever comes right behind it")
	s.hear(FleetLoad{Others: 1})
	require.Equal(t, 1, s.others)
}

func TestTheLimitAfterAFailure(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct {
		ago  time.Duration
		want float64
	}{
		{-time.Second, 85}, {0, 85}, {2500 * time.Millisecond, 90}, {5 * time.Second, 95},
		{10 * time.Second, 95 * 1.01},
		{65 * time.Second, 95 * math.Pow(1.01, 12)},
		{70 * time.Second, 95 * math.Pow(1.01, 12) * 1.02},
		{125 * time.Second, 95 * math.Pow(1.01, 12) * math.Pow(1.02, 12)},
		{10 * time.Minute, math.Inf(1)},
	} {
		require.InDelta(t, test.want, failure{rate: 100, since: now.Add(-test.ago)}.limit(now), 1e-6, test.ago)
	}
	for ago, want := range map[time.Duration]float64{0: 100, time.Second: 100, 2 * time.Second: 150, 3 * time.Second: 225, time.Minute: math.Inf(1)} {
		require.InDelta(t, want, failure{rate: 100, search: true, since: now.Add(-ago)}.limit(now), 1e-6, "a search, %s", ago)
	}
	last := 0.0
	for ago := time.Duration(0); ago < 5*time.Minute; ago += 100 * time.Millisecond {
		limit := failure{rate: 100, since: now.Add(-ago)}.limit(now)
		require.GreaterOrEqual(t, limit, last, "it only grows")
		last = limit
	}
	require.True(t, math.IsInf(last, 1))
	require.True(t, math.IsInf(failure{}.limit(now), 1))
}

func TestLoadsAndWhatTheOthersSay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		through, hosts := throttled(Options{HostConcurrency: 4}, func(*http.Request) *http.Response { return respond(http.StatusOK) })
		c := &Client{throttles: hosts}
		require.Empty(t, c.Loads())
		c.Heed("unknown", FleetLoad{})
		require.Empty(t, c.Loads())

		for range 10 {
			time.Sleep(100 * time.Millisecond) // of the bubble
			_, err := get(t, through, t.Context(), "http://h/")
			require.NoError(t, err)
		}
		load := c.Loads()[0]
		require.Equal(t, "h", load.Host)
		require.Equal(t, 1, load.Demand)
		require.InDelta(t, 10, load.Accepted, 1.5)
		time.Sleep(5 * time.Second) // of the bubble
		require.Empty(t, c.Loads(), "nobody asks it any more")

		c.Heed("h", FleetLoad{Others: 1, PausedFor: 8 * time.Second, Failure: &RateFailure{Rate: 50}})
		heard := HostLoad{Host: "h", PausedFor: 8 * time.Second, Failure: &RateFailure{Rate: 50}}
		require.Equal(t, []HostLoad{heard}, c.Loads())
		c.Heed("h", FleetLoad{Others: 1, PausedFor: 8*time.Second + heardLate, Failure: &RateFailure{Rate: 50}})
		require.Equal(t, []HostLoad{heard}, c.Loads(), "what comes back late changes nothing")
		c.Heed("h", FleetLoad{Failure: &RateFailure{Rate: 70, Began: time.Minute + time.Second, Ago: time.Minute}})
		require.Equal(t, []HostLoad{heard}, c.Loads(), "an older failure changes nothing")

		began := time.Now()
		_, err := get(t, through, t.Context(), "http://h/")
		require.NoError(t, err)
		require.Equal(t, 8*time.Second, time.Since(began), "a pause that was heard of holds")
		c.Heed("h", FleetLoad{Failure: &RateFailure{Rate: math.NaN()}})
		c.Heed("h", FleetLoad{Failure: &RateFailure{Rate: -1}})
		time.Sleep(2 * time.Second) // of the bubble
		require.Equal(t, &RateFailure{Rate: 50, Began: 10 * time.Second, Ago: 2 * time.Second}, c.Loads()[0].Failure)
		c.Heed("h", FleetLoad{Failure: &RateFailure{Rate: 40, Began: 3 * time.Second, Ago: time.Second}})
		require.Equal(t, &RateFailure{Rate: 40, Began: 3 * time.Second, Ago: time.Second}, c.Loads()[0].Failure, "the newest wins")
		time.Sleep(10 * time.Minute) // of the bubble
		require.Empty(t, c.Loads(), "what is long past is forgotten")
	})
}

func TestAnswersOfTheLastSecond(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := recent{born: now}
	for range 3000 {
		now = now.Add(10 * time.Millisecond)
		r.add(now)
	}
	require.InDelta(t, 100, r.lastSecond(now), 1)
	require.InDelta(t, 50, r.lastSecond(now.Add(500*time.Millisecond)), 1)
	require.Zero(t, r.lastSecond(now.Add(1200*time.Millisecond)))
	require.Zero(t, r.lastSecond(now.Add(time.Hour)))
}

// BenchmarkTurn is what a request pays here where there is no limit; slots alone
// are what bounding the requests under way costs.
func BenchmarkTurn(b *testing.B) {
	b.Run("slots alone", func(b *testing.B) {
		slots := make(chan struct{}, 64)
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				slots <- struct{}{}
				<-slots
			}
		})
	})
	b.Run("no limit", func(b *testing.B) {
		host := newThrottle("h", 64, math.Inf(1), func() {})
		ctx := b.Context()
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				sent, err := host.enter(ctx)
				if err != nil {
					b.Error(err)
					return
				}
				host.accepted("GET /", sent, time.Now())
				host.leave()
			}
		})
	})
}
