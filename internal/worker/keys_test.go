package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// errSealed is why the keys of a safe cannot be used.
var errSealed = errors.New("the safe is sealed")

// safe holds the keys of a worker.
type safe struct {
	mu     sync.Mutex
	sealed bool
	signed int
	tried  int
	probes []time.Time
	takes  time.Duration // to find out that it is sealed
}

func (s *safe) Away(err error) bool { return errors.Is(err, errSealed) }

func (s *safe) Probe(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probes = append(s.probes, time.Now())
	if s.sealed {
		return errSealed
	}
	return nil
}

func (s *safe) Sign(context.Context, sign.Request) (sign.Result, error) {
	s.mu.Lock()
	s.tried++
	sealed := s.sealed
	if !sealed {
		s.signed++
	}
	s.mu.Unlock()
	if sealed {
		time.Sleep(s.takes)
		return sign.Result{}, &sign.KeyError{Fingerprint: "sha256:k", Err: fmt.Errorf("signing: %w", errSealed)}
	}
	return oneSigned, nil
}

func (s *safe) set(sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = sealed
}

func (s *safe) seen() (tried, signed int, probes []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tried, s.signed, s.probes
}

// office is a worker of a safe, on a lane with requests.
type office struct {
	*safe
	*Worker
	book *book
	jobs chan *job
	log  *observer.ObservedLogs
}

func openOffice(slots, requests int, adjust func(*Options)) *office {
	core, log := observer.New(zapcore.InfoLevel)
	o := &office{safe: &safe{}, book: newBook(), jobs: make(chan *job, 10_000), log: log}
	options := DefaultOptions()
	options.Name, options.Jobs, options.Jitter, options.Keys = "w1", slots, 0, o.safe
	if adjust != nil {
		adjust(&options)
	}
	o.Worker = newWorker(o.book, signerFunc(o.safe.Sign), options, zap.New(core))
	for _, r := range numbered("r.example", requests) {
		o.jobs <- jobOf(r, 1, &parcel{book: o.book})
	}
	return o
}

func (o *office) lane(slots int) lane { return laneFrom(queue.LaneBulk, slots, o.jobs) }

// given are the requests that have been given back.
func (o *office) given() map[string]queue.Entry {
	o.book.mu.Lock()
	defer o.book.mu.Unlock()
	entries := make(map[string]queue.Entry)
	for key, e := range o.book.ledger {
		entries[key] = e
	}
	return entries
}

func (o *office) said(message string) int { return o.log.FilterMessage(message).Len() }

const (
	saidAway = "the keys are away, no requests are taken until they are back"
	saidBack = "the keys are back, requests are taken again"
)

func TestNothingIsTakenWhileTheKeysAreAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slots, requests = 4, 100
		o := openOffice(slots, requests, nil)
		o.set(true)
		drain := run(t, o.Worker, o.lane(slots))
		began := time.Now()
		time.Sleep(10 * time.Minute)
		tried, _, probes := o.seen()
		require.LessOrEqual(t, tried, slots)
		require.ErrorIs(t, o.KeysUsable(), errSealed)
		taken := requests - len(o.jobs)
		require.LessOrEqual(t, taken, 2*slots, "those in work, and those that were on their way")
		given := o.given()
		require.Len(t, given, taken)
		for _, e := range given {
			require.Zero(t, e.Attempts)
			require.Equal(t, KeyUnavailable, e.Class)
			require.Equal(t, queue.Seconds(time.Second), e.Waited)
		}
		for i, after := range []time.Duration{1, 3, 7, 15, 31, 61, 91} {
			require.Equal(t, after*time.Second, probes[i].Sub(began), i)
		}

		o.set(false)
		time.Sleep(time.Minute)
		require.NoError(t, o.KeysUsable())
		require.Empty(t, o.jobs)
		_, signed, _ := o.seen()
		require.Equal(t, requests-taken, signed)
		require.Empty(t, o.book.letters)
		require.Equal(t, []int{1, 1}, []int{o.said(saidAway), o.said(saidBack)})
		drain()
	})
}

func TestKeysGoAndComeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := openOffice(1, 0, nil)
		drain := run(t, o.Worker, o.lane(1))
		requests := numbered("r.example", 20)
		for i, r := range requests {
			o.set(i%2 == 0)
			o.jobs <- jobOf(r, 1, &parcel{book: o.book})
			time.Sleep(100 * time.Millisecond)
			require.Equal(t, i%2 == 0, o.KeysUsable() != nil)
			o.set(false)
			time.Sleep(2 * time.Second)
			require.NoError(t, o.KeysUsable())
		}
		require.Equal(t, []int{10, 10}, []int{o.said(saidAway), o.said(saidBack)})
		drain()
	})
}

// What was begun before the keys came back says nothing of them.
func TestLateFailureOfAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := openOffice(2, 0, nil)
		drain := run(t, o.Worker, o.lane(2))
		o.set(true)
		requests := numbered("r.example", 2)
		o.takes = 30 * time.Second
		o.jobs <- jobOf(requests[0], 1, &parcel{book: o.book})
		time.Sleep(28 * time.Second)
		o.jobs <- jobOf(requests[1], 1, &parcel{book: o.book})
		time.Sleep(time.Second)
		o.set(false)
		time.Sleep(2500 * time.Millisecond) // the first has failed, and the keys were tried
		require.NoError(t, o.KeysUsable())
		time.Sleep(time.Minute) // the second has failed
		require.Equal(t, 1, o.said(saidAway))
		require.Len(t, o.given(), 2)
		drain()
	})
}

func TestKeysAwayForTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := openOffice(1, 3, func(o *Options) { o.KeyPatience = 5 * time.Minute })
		o.set(true)
		began := time.Now()
		err := o.run(t.Context(), []lane{o.lane(1)})
		var away *KeysAwayError
		require.ErrorAs(t, err, &away)
		require.ErrorIs(t, err, errSealed)
		require.ErrorContains(t, err, "the keys to sign with are away for 5m1s: the safe is sealed")
		require.GreaterOrEqual(t, time.Since(began), 5*time.Minute)
		require.Empty(t, o.book.outcomes)
	})
}

// Keys that come and go do not keep a request for ever.
func TestWaitingForKeysIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, delivered := range []int{1, 50} {
			o := openOffice(1, 0, nil)
			r := testRequest()
			o.set(true)
			if delivered > 1 {
				o.book.ledger[requestKey(r)] = queue.Entry{Attempts: 2, Waited: queue.Seconds(time.Hour - time.Second)}
			}
			for range 2 { // once shut out by the key, once by the gate
				o.handle(t.Context(), t.Context(), jobOf(r, delivered, &parcel{book: o.book}))
			}
			ended, dead := o.book.outcomes[requestKey(r)]
			require.Equal(t, delivered > 1, dead)
			if dead {
				require.Equal(t, KeyUnavailable, ended.Class)
				require.Equal(t, 2, ended.Attempts)
			}
		}
	})
}

// Whoever drains does not wait for keys.
func TestDrainWhileTheKeysAreAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := openOffice(2, 5, nil)
		o.set(true)
		drain := run(t, o.Worker, o.lane(2))
		time.Sleep(100 * time.Second)
		began := time.Now()
		drain()
		require.Zero(t, time.Since(began))
	})
}

// Without anybody else who holds them, keys are not waited for.
func TestKeysInMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, keys := range []Keys{nil, &safe{}} {
			o := openOffice(1, 0, func(o *Options) { o.Keys = keys })
			o.signer = signerFunc(func(context.Context, sign.Request) (sign.Result, error) {
				return sign.Result{}, &sign.KeyError{Err: sign.ErrInvalidSignature}
			})
			o.handle(t.Context(), t.Context(), jobOf(testRequest(), 1, &parcel{book: o.book}))
			require.NoError(t, o.KeysUsable())
			require.Equal(t, 1, o.given()[requestKey(testRequest())].Attempts)
		}
	})
}
