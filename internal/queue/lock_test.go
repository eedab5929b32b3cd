package queue_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func lock(t testing.TB, conn *queue.Conn, name string) *queue.Lease {
	t.Helper()
	lease, err := conn.Locker("someone").Lock(within(t), name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = lease.Unlock() })
	return lease
}

// locked waits for a lock in the background.
func locked(t testing.TB, conn *queue.Conn, name string) <-chan *queue.Lease {
	t.Helper()
	got := make(chan *queue.Lease, 1)
	go func() {
		defer close(got)
		if lease, err := conn.Locker("waiter").Lock(within(t), name); err == nil {
			got <- lease
		}
	}()
	return got
}

// key is the one key in the bucket of locks.
func key(t testing.TB, js jetstream.JetStream) (jetstream.KeyValue, jetstream.KeyValueEntry) {
	t.Helper()
	kv, err := js.KeyValue(within(t), "SIGN_LOCKS")
	require.NoError(t, err)
	keys, err := kv.Keys(within(t))
	require.NoError(t, err)
	require.Len(t, keys, 1)
	entry, err := kv.Get(within(t), keys[0])
	require.NoError(t, err)
	return kv, entry
}

func TestALockHasOneHolder(t *testing.T) {
	t.Parallel()
	o := queue.Options{LockTTL: 5 * time.Second}
	srv, conn := newQueue(t, o)
	other := connect(t, srv, o)
	var holders [2]atomic.Int32
	var group errgroup.Group
	for i := range 12 {
		locker := []*queue.Conn{conn, other}[i%2].Locker(fmt.Sprint("worker-", i))
		group.Go(func() error {
			for round := range 6 {
				which := (i + round) % 2
				lease, err := locker.Lock(within(t), fmt.Sprint("r.example/app@sha256:", which))
				if err != nil {
					return err
				}
				if n := holders[which].Add(1); n != 1 || lease.Left() <= 0 {
					return fmt.Errorf("%d holders, %s left", n, lease.Left())
				}
				holders[which].Add(-1)
				if err := lease.Unlock(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	_, js := raw(t, srv)
	eventually(t, func() bool { return stored(t, js, "KV_SIGN_LOCKS") == 0 }, "the marks of locks given back stay")
}

func TestALeaseIsRenewedPastItsLife(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{LockTTL: 2 * time.Second})
	_, js := raw(t, srv)
	lease := lock(t, conn, "x")
	waiter := locked(t, connect(t, srv, queue.Options{LockTTL: 2 * time.Second}), "x")
	_, first := key(t, js)
	eventually(t, func() bool { // two lives: renewals are a quarter of a life apart
		_, now := key(t, js)
		return now.Revision() >= first.Revision()+8
	}, "not renewed")
	require.Positive(t, lease.Left())
	require.Empty(t, waiter)
	require.NoError(t, lease.Unlock())
	require.Zero(t, lease.Left())
	next := <-waiter
	require.NotNil(t, next)
	require.NoError(t, next.Unlock())
	require.NoError(t, lease.Unlock(), "a second call is harmless")
}

func TestTheLockOfADeadHolderEnds(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{LockTTL: time.Second})
	dying := connect(t, srv, queue.Options{LockTTL: time.Second})
	lease := lock(t, dying, "x")
	dying.Close()
	next := lock(t, conn, "x")
	require.Positive(t, next.Left())
	require.Zero(t, lease.Left())
	_ = lease.Unlock()
	require.Positive(t, next.Left())
}

func TestALostLeaseKnowsAndTakesNothingAway(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{LockTTL: 2 * time.Second})
	_, js := raw(t, srv)
	lease := lock(t, conn, "x")
	kv, entry := key(t, js)
	_, err := kv.Put(within(t), entry.Key(), []byte("somebody else"))
	require.NoError(t, err)
	eventually(t, func() bool { return lease.Left() == 0 }, "not lost")
	require.NoError(t, lease.Unlock())
	_, entry = key(t, js)
	require.Equal(t, "somebody else", string(entry.Value()))

	// Lost between two renewals: the lease does not know yet.
	require.NoError(t, kv.Purge(within(t), entry.Key()))
	lease = lock(t, conn, "x")
	_, err = kv.Put(within(t), entry.Key(), []byte("somebody else"))
	require.NoError(t, err)
	require.NoError(t, lease.Unlock())
	_, entry = key(t, js)
	require.Equal(t, "somebody else", string(entry.Value()))
}

func TestARenewalWithoutAnAnswerLosesNothing(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{LockTTL: 2 * time.Second})
	_, js := raw(t, srv)
	// What the holder stored without hearing of it looks like this to it.
	renewedUnheard := func() jetstream.KeyValueEntry {
		kv, entry := key(t, js)
		revision, err := kv.Put(within(t), entry.Key(), entry.Value())
		require.NoError(t, err)
		require.Greater(t, revision, entry.Revision())
		_, entry = key(t, js)
		return entry
	}
	lease := lock(t, conn, "x")
	unheard := renewedUnheard()
	eventually(t, func() bool {
		_, now := key(t, js)
		return now.Revision() >= unheard.Revision()+4
	}, "not renewed again")
	require.Positive(t, lease.Left())
	renewedUnheard()
	require.NoError(t, lease.Unlock())
	require.NoError(t, lock(t, connect(t, srv, queue.Options{}), "x").Unlock())
}

func TestUnlockWorksAtTheEndOfAContext(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	ctx, cancel := context.WithCancel(within(t))
	lease, err := conn.Locker("w").Lock(ctx, "x")
	require.NoError(t, err)
	cancel()
	require.Positive(t, lease.Left())
	require.NoError(t, lease.Unlock())
	require.NoError(t, lock(t, conn, "x").Unlock())
}

func TestWaitingForALockEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	held := lock(t, conn, "x")
	// Only a clock that was told of the waiting ends it so.
	ctx, _, stop := deadline.With(within(t), deadline.Limits{Work: never, Wait: 100 * time.Millisecond})
	defer stop()
	_, err := conn.Locker("w").Lock(ctx, "x")
	var waited *deadline.WaitError
	require.ErrorAs(t, err, &waited)
	require.Equal(t, deadline.Lock, waited.For)
	require.NoError(t, held.Unlock())

	// A lock taken at the very end of a context is not left behind.
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(cancel)
		if lease, err := conn.Locker("w").Lock(ctx, "x"); err == nil {
			require.NoError(t, lease.Unlock())
		}
		wg.Wait()
		require.NoError(t, lock(t, conn, "x").Unlock())
	}
}

func TestLocksOutliveARestartOfTheServer(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{LockTTL: 60 * time.Second})
	lease := lock(t, conn, "x")
	waiter := locked(t, conn, "x")
	queuetest.Restart(t, srv)
	require.Positive(t, lease.Left())
	eventually(t, func() bool { return lease.Unlock() == nil }, "not unlocked")
	next := <-waiter
	require.NotNil(t, next)
	require.NoError(t, next.Unlock())
}

func TestTheFirstLockOfAConnectionWaitsForTheServerToo(t *testing.T) {
	t.Parallel()
	srv, _ := newQueue(t, queue.Options{})
	fresh := stranger(t, srv, queue.Options{})
	again := queuetest.Stop(t, srv)
	waiter := locked(t, fresh, "x")
	again()
	lease := <-waiter
	require.NotNil(t, lease)
	require.NoError(t, lease.Unlock())
}

func TestForgetLocks(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{LockTTL: time.Hour})
	dead := connect(t, srv, queue.Options{LockTTL: time.Hour})
	lock(t, dead, "x")
	dead.Close()
	require.NoError(t, conn.ForgetLocks(within(t)))
	require.NoError(t, lock(t, conn, "x").Unlock())
}
