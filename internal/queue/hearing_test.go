package queue_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// ears are what was heard of workers.
type ears struct {
	mu    sync.Mutex
	there map[string]queue.Presence
	gone  []string
	ended chan error
}

// listen hears workers until the test ends.
func listen(t *testing.T, conn *queue.Conn) *ears {
	t.Helper()
	e := &ears{there: map[string]queue.Presence{}, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		e.ended <- conn.Presences(ctx, e.each, e.left)
	}()
	return e
}

func (e *ears) each(p queue.Presence, _ time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.there[p.Worker] = p
}

func (e *ears) left(worker string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.there, worker)
	e.gone = append(e.gone, worker)
}

// hears awaits that an announcement is heard. It is made again as workers do: one that
// is being stored when another worker begins to listen may pass him by.
func (e *ears) hears(t *testing.T, conn *queue.Conn, p queue.Presence) {
	t.Helper()
	eventually(t, func() bool {
		require.NoError(t, conn.Announce(within(t), p))
		e.mu.Lock()
		defer e.mu.Unlock()
		last, there := e.there[p.Worker]
		return there && last.InWork == p.InWork
	}, p.Worker+" was not heard of")
}

// knows awaits that what is known of a worker fits.
func (e *ears) knows(t *testing.T, worker string, fits func(p queue.Presence, there bool) bool) {
	t.Helper()
	eventually(t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		p, there := e.there[worker]
		return fits(p, there)
	}, worker+" was not heard of")
}

func inWork(n int) func(queue.Presence, bool) bool {
	return func(p queue.Presence, there bool) bool { return there && p.InWork == n }
}

func away(_ queue.Presence, there bool) bool { return !there }

func TestWorkersHearEachOther(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	want := queue.HostState{
		Host: "r.example", Demand: 3, Accepted: 41.5, PausedFor: queue.Seconds(1500 * time.Millisecond),
		FailedRate: 99.9, FailedAgo: queue.Seconds(20 * time.Second),
	}
	require.NoError(t, conn.Announce(within(t), queue.Presence{Worker: "before", InWork: 1, Hosts: []queue.HostState{want}}))
	e := listen(t, connect(t, srv, queue.Options{}))
	e.knows(t, "before", func(p queue.Presence, there bool) bool {
		return there && slices.Equal(p.Hosts, []queue.HostState{want})
	})

	e.hears(t, conn, queue.Presence{Worker: "after", InWork: 1})
	require.NoError(t, conn.Announce(within(t), queue.Presence{Worker: "after", InWork: 2}))
	e.knows(t, "after", inWork(2))
	require.NoError(t, conn.Withdraw(within(t), "before"))
	e.knows(t, "before", away)
}

func TestWorkersAreHeardAfterALostConnection(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	e := listen(t, connect(t, srv, queue.Options{}))
	e.hears(t, conn, queue.Presence{Worker: "w", InWork: 1})

	srv = queuetest.Restart(t, srv)
	late := connect(t, srv, queue.Options{})
	e.hears(t, late, queue.Presence{Worker: "w", InWork: 2})
	require.NoError(t, late.Announce(within(t), queue.Presence{Worker: "w", InWork: 3}))
	e.knows(t, "w", inWork(3))
}

func TestForgedAndForeignPresencesAreNotHeard(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	e := listen(t, conn)
	nc, _ := raw(t, srv)
	e.hears(t, conn, queue.Presence{Worker: "first"}) // it listens by now
	tell := func(key, data string, header nats.Header) {
		_, err := nc.RequestMsgWithContext(within(t), &nats.Msg{Subject: "$KV.SIGN_WORKERS." + key, Data: []byte(data), Header: header})
		require.NoError(t, err)
	}
	const one = `{"version":1,"worker":"x","host":"","program":"","jobs":1,"event_jobs":0,"in_work":0,"draining":false,"started_at":"2026-01-01T00:00:00Z","seen_at":"2026-01-01T00:00:00Z"}`
	tell("x", one, nats.Header{"Nats-Stream": {"SIGN_OUTCOMES"}})
	tell("y", one, nil)
	tell("x", "nonsense", nil)
	tell("x", strings.Replace(one, `"version":1`, `"version":2,"wonder":1`, 1), nil)
	require.NoError(t, conn.Announce(within(t), queue.Presence{Worker: "last"}))
	e.knows(t, "last", inWork(0))
	e.knows(t, "x", away)
	e.knows(t, "y", away)
	e.mu.Lock()
	defer e.mu.Unlock()
	require.Empty(t, e.gone)
}

func TestHearingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	require.NoError(t, conn.Announce(within(t), queue.Presence{Worker: "w"}))
	ctx, cancel := context.WithCancel(within(t))
	err := conn.Presences(ctx, func(queue.Presence, time.Duration) { cancel() }, func(string) {})
	require.ErrorIs(t, err, context.Canceled)
}
