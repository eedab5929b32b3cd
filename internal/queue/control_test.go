package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

func TestPausesAreSeenUntilResumed(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	other := connect(t, srv, queue.Options{})
	targets := []string{queue.LaneBulk, "bulk.example:5000", queue.LaneEvent}
	for _, target := range targets {
		_, paused, err := other.Paused(within(t), target)
		require.NoError(t, err)
		require.False(t, paused)
		require.NoError(t, conn.Pause(within(t), queue.Pause{Target: target, By: "me", At: time.Now().UTC()}))
	}
	pauses, err := other.Pauses(within(t))
	require.NoError(t, err)
	var names []string
	for _, p := range pauses {
		names = append(names, p.Target)
		require.Equal(t, "me", p.By)
	}
	require.Equal(t, []string{"bulk", "bulk.example:5000", "event"}, names)

	for _, target := range targets {
		_, paused, err := other.Paused(within(t), target)
		require.NoError(t, err)
		require.True(t, paused)
		was, err := other.Resume(within(t), target)
		require.NoError(t, err)
		require.True(t, was)
		was, err = other.Resume(within(t), target)
		require.NoError(t, err)
		require.False(t, was)
	}
	pauses, err = conn.Pauses(within(t))
	require.NoError(t, err)
	require.Empty(t, pauses)
}

func TestWorkersArePresentUntilTheyWithdraw(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	want := queue.Presence{
		Worker: "w-2", Host: "h", Program: "v1", Jobs: 4, EventJobs: 1, InWork: 3, StartedAt: time.Now().UTC(),
		Hosts: []queue.HostState{{Host: "r.example", Open: true, Until: time.Now().UTC(), Reason: "network"}},
	}
	require.NoError(t, conn.Announce(within(t), want))
	require.NoError(t, conn.Announce(within(t), want))
	require.NoError(t, conn.Announce(within(t), queue.Presence{Worker: "w-1"}))
	present, err := connect(t, srv, queue.Options{}).Present(within(t))
	require.NoError(t, err)
	require.Len(t, present, 2)
	require.Equal(t, "w-1", present[0].Worker)
	require.False(t, present[1].SeenAt.IsZero())
	want.Version, want.SeenAt = 1, present[1].SeenAt
	require.Equal(t, want, present[1])

	require.NoError(t, conn.Withdraw(within(t), "w-2"))
	require.NoError(t, conn.Withdraw(within(t), "w-2"))
	present, err = conn.Present(within(t))
	require.NoError(t, err)
	require.Len(t, present, 1)
}

func TestTheBacklogIsCountedByLaneAndBatch(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{Partitions: 3})
	publish(t, conn, 0, "a", 1)
	publish(t, conn, 0, "a", 2)
	publish(t, conn, 2, "b", 1)
	for seq := 1; seq <= 2; seq++ {
		r := request("push", seq)
		require.NoError(t, conn.PublishEvent(within(t), "hub", r))
		require.NoError(t, conn.PublishEvent(within(t), "hub", r), "the same event twice")
	}
	require.ErrorContains(t, conn.PublishEvent(within(t), "a.b", request("push", 3)), "not a name")
	backlog, err := conn.Backlog(within(t))
	require.NoError(t, err)
	require.Equal(t, queue.Backlog{Bulk: 3, Event: 2, Batches: map[string]int{"a": 2, "b": 1, "push": 2}}, backlog)
	require.Equal(t, "push", one(t, conn.EventLane()).Request.Batch)
}

func TestMarksOutliveWhatCouldComeBack(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{LockTTL: 60 * time.Second})
	lease, err := conn.Locker("w").Lock(within(t), "x")
	require.NoError(t, err)
	require.NoError(t, lease.Unlock())
	require.NoError(t, conn.Pause(within(t), queue.Pause{Target: queue.LaneBulk}))
	_, err = conn.Resume(within(t), queue.LaneBulk)
	require.NoError(t, err)
	_, js := raw(t, srv)
	for name, life := range map[string]string{"KV_SIGN_LOCKS": "1m1s", "KV_SIGN_CONTROL": ""} {
		stream, err := js.Stream(within(t), name)
		require.NoError(t, err)
		mark, err := stream.GetMsg(within(t), stream.CachedInfo().State.LastSeq)
		require.NoError(t, err)
		require.Equal(t, "PURGE", mark.Header.Get("KV-Operation"))
		require.Equal(t, life, mark.Header.Get("Nats-TTL"))
	}
}
