package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
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

	require.NoError(t, conn.Cancel(within(t), "b-1", 2))
	require.NoError(t, conn.Cancel(within(t), "b-1", 1))
	for id, want := range map[string]bool{"b-1": true, "b-2": false, "none": false} {
		mark, cancelled, err := conn.Cancelled(within(t), id)
		require.NoError(t, err)
		require.Equal(t, want, cancelled)
		if want {
			require.Equal(t, 2, mark.Gen, "a mark that covers more stays")
			require.True(t, mark.Covers(2))
			require.False(t, mark.Covers(3))
			require.False(t, mark.At.IsZero())
		}
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
	_, cancelled, err := conn.Cancelled(within(t), "b-1")
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
		require.NoError(t, conn.Cancel(within(t), "b", 0))
		require.NoError(t, remove("b"))
		require.NoError(t, remove("b.cancelled"))
		_, err = conn.Batch(within(t), "b")
		require.ErrorIs(t, err, queue.ErrNone)
		_, cancelled, err := conn.Cancelled(within(t), "b")
		require.NoError(t, err)
		require.False(t, cancelled)
	}
	_, err = conn.Batch(within(t), "*")
	require.ErrorContains(t, err, "is not a key")
	require.ErrorContains(t, conn.Cancel(within(t), "b.>", 0), "is not a key")
}

func TestTwoProcessesUnderOneBatchDoNotUndoEachOther(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	mine := queue.Batch{ID: "b", List: "l", Partition: 3}
	require.NoError(t, conn.CreateBatch(within(t), mine))
	theirs := mine
	theirs.Accepted, theirs.Total, theirs.Published = 9, 9, true
	require.NoError(t, connect(t, srv, queue.Options{}).WriteBatch(within(t), theirs))

	mine.Accepted = 4
	require.NoError(t, conn.WriteBatch(within(t), mine))
	got, err := conn.Batch(within(t), "b")
	require.NoError(t, err)
	require.Equal(t, []any{9, 9, true}, []any{got.Accepted, got.Total, got.Published})

	var group errgroup.Group
	for n := range 8 {
		b := mine
		b.Accepted = 10 + n
		group.Go(func() error { return conn.WriteBatch(within(t), b) })
	}
	require.NoError(t, group.Wait())
	got, err = conn.Batch(within(t), "b")
	require.NoError(t, err)
	require.Equal(t, 17, got.Accepted)
}

func TestBatchRecordsAreThoseThatCanBeRead(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	for _, id := range []string{"b-1", "b-2"} {
		require.NoError(t, conn.CreateBatch(within(t), queue.Batch{ID: id}))
		require.NoError(t, conn.Cancel(within(t), id, 0))
	}
	forge(t, srv, "KV_SIGN_BATCHES", "$KV.SIGN_BATCHES.b-1", "$KV.SIGN_BATCHES.b-3")
	queuetest.Publish(t, srv, "$KV.SIGN_BATCHES.b-4", []byte(`{"version":1,"id":"b-1"}`))
	queuetest.Publish(t, srv, "$KV.SIGN_BATCHES.b-5", []byte(`nonsense`))
	var ids []string
	require.NoError(t, conn.BatchRecords(within(t), func(b queue.Batch) error { ids = append(ids, b.ID); return nil }))
	require.Equal(t, []string{"b-1", "b-2"}, ids)
}

func TestARetryIsNotedInPieces(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	var ids []string
	for n := range 20_000 {
		ids = append(ids, request("b", n+1).ID)
	}
	note := queue.RetryNote{Batch: "b", Gen: 1, IDs: ids, Class: "timeout", From: "here", At: time.Now().UTC()}
	require.NoError(t, conn.NoteRetry(within(t), note))
	require.NoError(t, conn.NoteRetry(within(t), queue.RetryNote{Batch: "b", Gen: 2, IDs: ids[:1]}))
	require.NoError(t, conn.NoteRetry(within(t), queue.RetryNote{Batch: "other", Gen: 1, IDs: ids[:1]}))
	require.NoError(t, conn.NoteRetry(within(t), queue.RetryNote{Batch: "none", Gen: 1}))
	forge(t, srv, "KV_SIGN_BATCHES", "$KV.SIGN_BATCHES.b-1", "$KV.SIGN_BATCHES.b.retry.1.forged")

	got := map[int][]string{}
	pieces := 0
	require.NoError(t, conn.RetryNotes(within(t), "b", func(n queue.RetryNote) error {
		pieces++
		got[n.Gen] = append(got[n.Gen], n.IDs...)
		if n.Gen == 1 {
			require.Equal(t, []any{note.Class, note.From, note.At}, []any{n.Class, n.From, n.At})
		}
		return nil
	}))
	require.Equal(t, map[int][]string{1: ids, 2: ids[:1]}, got)
	require.Equal(t, 4, pieces)
	ids, err := conn.Batches(within(t))
	require.NoError(t, err)
	require.Empty(t, ids, "a note is no batch")
}

func TestTheLedgerOfABatchIsItsOwn(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	mine, others := request("b", 1), request("c", 1)
	retried := mine
	retried.Gen = 2
	for _, r := range []queue.Request{mine, others, retried} {
		require.NoError(t, conn.WriteLedger(within(t), r, queue.Entry{Attempts: r.Gen + 1, Reference: r.Reference}))
	}
	got := map[int]queue.Entry{}
	require.NoError(t, conn.LedgerOf(within(t), "b", func(l queue.LedgerLine) error {
		require.Equal(t, mine.ID, l.ID)
		got[l.Gen] = l.Entry
		return nil
	}))
	require.Len(t, got, 2)
	require.Equal(t, mine.Reference, got[0].Reference)
	require.Equal(t, 3, got[2].Attempts)
	require.NoError(t, conn.ClearLedger(within(t), mine))
	count := 0
	require.NoError(t, conn.LedgerOf(within(t), "b", func(queue.LedgerLine) error { count++; return nil }))
	require.Equal(t, 1, count)
}
