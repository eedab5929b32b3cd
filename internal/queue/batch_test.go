package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

func TestBatches(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	ids, err := conn.Batches(within(t))
	require.NoError(t, err)
	require.Empty(t, ids)
	_, err = conn.Batch(within(t), "b-2")
	require.ErrorIs(t, err, queue.ErrNone)

	want := queue.Batch{
		ID: "b-2", List: "00", Partition: 3, Total: 9, Published: true, Accepted: 9, Finished: true,
		Options:   queue.BatchOptions{Registry: "r", Platforms: []string{"linux/amd64"}, Timeout: queue.Seconds(10 * time.Minute)},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	first := want
	first.Finished = false
	require.NoError(t, conn.CreateBatch(within(t), first))
	require.ErrorIs(t, conn.CreateBatch(within(t), want), queue.ErrBatchExists)
	require.NoError(t, conn.WriteBatch(within(t), want))
	require.NoError(t, conn.CreateBatch(within(t), queue.Batch{ID: "b-1"}))

	got, err := connect(t, srv, queue.Options{}).Batch(within(t), "b-2")
	require.NoError(t, err)
	require.False(t, got.UpdatedAt.IsZero())
	want.Version, want.UpdatedAt = 1, got.UpdatedAt
	require.Equal(t, want, got)

	require.NoError(t, conn.Cancel(within(t), "b-1"))
	require.NoError(t, conn.Cancel(within(t), "b-1"))
	for id, want := range map[string]bool{"b-1": true, "b-2": false, "none": false} {
		cancelled, err := conn.Cancelled(within(t), id)
		require.NoError(t, err)
		require.Equal(t, want, cancelled)
	}
	ids, err = conn.Batches(within(t))
	require.NoError(t, err)
	require.Equal(t, []string{"b-1", "b-2"}, ids)
}

func TestTheLedgerKeepsOneEntryForEachGeneration(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	r := request("b", 1)
	_, ok, err := conn.Ledger(within(t), r)
	require.NoError(t, err)
	require.False(t, ok)

	want := queue.Entry{
		Attempts: 2, Deaths: 1, InFlight: true, Waited: queue.Seconds(1500 * time.Millisecond),
		Class: "timeout", Error: "slow", Worker: "w", UpdatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	require.NoError(t, conn.WriteLedger(within(t), r, queue.Entry{Worker: "w-0"}))
	require.NoError(t, conn.WriteLedger(within(t), r, want))
	got, ok, err := connect(t, srv, queue.Options{}).Ledger(within(t), r)
	require.NoError(t, err)
	require.True(t, ok)
	want.Version = 1
	require.Equal(t, want, got)

	retried := r
	retried.Gen = 1
	_, ok, err = conn.Ledger(within(t), retried)
	require.NoError(t, err)
	require.False(t, ok)

	require.NoError(t, conn.ClearLedger(within(t), r))
	require.NoError(t, conn.ClearLedger(within(t), r))
	_, ok, err = conn.Ledger(within(t), r)
	require.NoError(t, err)
	require.False(t, ok)
	_, js := raw(t, srv)
	eventually(t, func() bool { return stored(t, js, "KV_SIGN_LEDGER") == 0 }, "a mark of the removal stays")
}

func TestForgedKeysAreRefused(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	require.NoError(t, conn.CreateBatch(within(t), queue.Batch{ID: "b-1"}))
	for _, key := range []string{"b-2", "b-1.cancelled"} {
		forge(t, srv, "KV_SIGN_BATCHES", "$KV.SIGN_BATCHES.b-1", "$KV.SIGN_BATCHES."+key)
	}
	_, err := conn.Batch(within(t), "b-2")
	require.ErrorIs(t, err, queue.ErrForged)
	require.ErrorIs(t, err, queue.ErrUnreadable)
	cancelled, err := conn.Cancelled(within(t), "b-1")
	require.ErrorIs(t, err, queue.ErrForged)
	require.False(t, cancelled)
	require.ErrorIs(t, conn.CreateBatch(within(t), queue.Batch{ID: "b-2"}), queue.ErrBatchExists)
}

func TestARemovedBatchIsNone(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	kv, err := js.KeyValue(within(t), "SIGN_BATCHES")
	require.NoError(t, err)
	for _, remove := range []func(string) error{
		func(key string) error { return kv.Delete(within(t), key) },
		func(key string) error { return kv.Purge(within(t), key) },
	} {
		require.NoError(t, conn.CreateBatch(within(t), queue.Batch{ID: "b"}))
		require.NoError(t, conn.Cancel(within(t), "b"))
		require.NoError(t, remove("b"))
		require.NoError(t, remove("b.cancelled"))
		_, err = conn.Batch(within(t), "b")
		require.ErrorIs(t, err, queue.ErrNone)
		cancelled, err := conn.Cancelled(within(t), "b")
		require.NoError(t, err)
		require.False(t, cancelled)
	}
	_, err = conn.Batch(within(t), "*")
	require.ErrorContains(t, err, "is not a key")
	require.ErrorContains(t, conn.Cancel(within(t), "b.>"), "is not a key")
}
