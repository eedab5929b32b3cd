package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func TestSetupTakesWhatIsThere(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	require.NoError(t, conn.Setup(within(t)))

	_, js := raw(t, srv)
	for _, name := range []string{"SIGN_REQUESTS", "SIGN_OUTCOMES", "SIGN_DEAD"} {
		s, err := js.Stream(within(t), name)
		require.NoError(t, err)
		config := s.CachedInfo().Config
		config.MaxBytes = 1 << 20
		config.Description = "an operator's"
		_, err = js.UpdateStream(within(t), config)
		require.NoError(t, err)
	}
	other := connect(t, srv, queue.Options{Retention: 24 * time.Hour, LockTTL: 5 * time.Second, AckWait: 3 * time.Second})
	publish(t, other, 0, "b", 1)
	require.NoError(t, one(t, conn.BulkLane()).Done(within(t)))
	s, err := js.Stream(within(t), "SIGN_OUTCOMES")
	require.NoError(t, err)
	require.Equal(t, int64(1<<20), s.CachedInfo().Config.MaxBytes)
}

func TestSetupOrphansNoPartition(t *testing.T) {
	t.Parallel()
	srv, _ := newQueue(t, queue.Options{Partitions: 4})
	var conflict *queue.ConflictError
	require.ErrorAs(t, stranger(t, srv, queue.Options{Partitions: 2}).Setup(within(t)), &conflict)
	require.Equal(t, "SIGN_REQUESTS", conflict.Stream)
	require.Equal(t, "it has 4 partitions, and this process is to serve 2", conflict.Difference)
	require.ErrorContains(t, conflict, "bulk-02")
	require.NotContains(t, conflict.Error(), "made by something else")

	require.NoError(t, stranger(t, srv, queue.Options{Partitions: 4}).Setup(within(t)))
	require.NoError(t, stranger(t, srv, queue.Options{Partitions: 6}).Setup(within(t)))
	require.ErrorAs(t, stranger(t, srv, queue.Options{Partitions: 4}).Setup(within(t)), &conflict)
}

func TestSetupByManyAtOnce(t *testing.T) {
	t.Parallel()
	srv := queuetest.StartServer(t)
	var group errgroup.Group
	for range 8 {
		conn := stranger(t, srv, queue.Options{Partitions: 3})
		group.Go(func() error { return conn.Setup(within(t)) })
	}
	require.NoError(t, group.Wait())
}

func TestSetupRefusesAnotherLayout(t *testing.T) {
	t.Parallel()
	requests := jetstream.StreamConfig{
		Name: "SIGN_REQUESTS", Subjects: []string{"sign.request.>"}, Retention: jetstream.WorkQueuePolicy,
		Discard: jetstream.DiscardNew, Duplicates: 10 * time.Minute,
	}
	outcomes := jetstream.StreamConfig{
		Name: "SIGN_OUTCOMES", Subjects: []string{"sign.outcome.>"}, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: 1, DiscardNewPerSubject: true, AllowDirect: true,
	}
	locks := jetstream.StreamConfig{
		Name: "KV_SIGN_LOCKS", Subjects: []string{"$KV.SIGN_LOCKS.>"}, MaxMsgsPerSubject: 1,
		Discard: jetstream.DiscardNew, AllowDirect: true, AllowRollup: true,
	}
	with := func(base jetstream.StreamConfig, change func(*jetstream.StreamConfig)) jetstream.StreamConfig {
		change(&base)
		return base
	}
	type config = *jetstream.StreamConfig
	for difference, have := range map[string]jetstream.StreamConfig{
		"subjects are [sign.request.bulk.>]": with(requests, func(c config) { c.Subjects = []string{"sign.request.bulk.>"} }),
		"retention is":                       with(requests, func(c config) { c.Retention = jetstream.LimitsPolicy }),
		"discards":                           with(requests, func(c config) { c.Discard = jetstream.DiscardOld }),
		"to 7 messages":                      with(requests, func(c config) { c.MaxMsgsPerSubject = 7 }),
		"forgets messages after 1h":          with(requests, func(c config) { c.MaxAge = time.Hour }),
		"knows duplicates for 1m":            with(requests, func(c config) { c.Duplicates = time.Minute }),
		"its storage is":                     with(requests, func(c config) { c.Storage = jetstream.MemoryStorage }),
		"refuse a second":                    with(outcomes, func(c config) { c.DiscardNewPerSubject = false }),
		"direct get":                         with(outcomes, func(c config) { c.AllowDirect = false }),
		"allow_msg_ttl":                      locks,
		"forgets keys":                       with(locks, func(c config) { c.AllowMsgTTL = true; c.MaxAge = time.Hour }),
		"allow_rollup":                       with(locks, func(c config) { c.AllowMsgTTL = true; c.AllowRollup = false }),
		"another stream takes the subjects":  {Name: "STRANGER", Subjects: []string{"sign.>"}},
	} {
		t.Run(difference, func(t *testing.T) {
			t.Parallel()
			srv := queuetest.StartServer(t)
			_, js := raw(t, srv)
			_, err := js.CreateStream(within(t), have)
			require.NoError(t, err)
			conn := stranger(t, srv, queue.Options{Partitions: 3})
			var conflict *queue.ConflictError
			require.ErrorAs(t, conn.Setup(within(t)), &conflict)
			require.Contains(t, conflict.Difference, difference)
			require.ErrorContains(t, conflict, conflict.Stream)
		})
	}
}

func TestWithoutStreamsEverythingSaysSo(t *testing.T) {
	t.Parallel()
	conn := stranger(t, queuetest.StartServer(t), queue.Options{})
	ctx := within(t)
	r := request("b", 1)
	nothing := func() error { return nil }
	publisher := conn.Publisher(0)
	for what, call := range map[string]func() error{
		"partition": func() error { _, err := conn.EmptiestPartition(ctx); return err },
		"publish":   func() error { return errors.Join(publisher.Publish(ctx, r), publisher.Flush(ctx)) },
		"bulk":      func() error { _, err := conn.BulkLane().Next(ctx, 1); return err },
		"event":     func() error { _, err := conn.EventLane().Next(ctx, 1); return err },
		"record":    func() error { _, err := conn.Record(ctx, queue.Outcome{Batch: "b", ID: r.ID}); return err },
		"outcome":   func() error { _, err := conn.Outcome(ctx, "b", r.ID, 0); return err },
		"bury":      func() error { return conn.Bury(ctx, queue.DeadLetter{Request: r}) },
		"follow":    func() error { return conn.Follow(ctx, "b", nothing, func(queue.Outcome) error { return nil }) },
		"ledger":    func() error { _, _, err := conn.Ledger(ctx, r); return err },
		"waiting":   func() error { _, err := conn.Waiting(ctx, "b"); return err },
		"cancelled": func() error { _, err := conn.Cancelled(ctx, "b"); return err },
		"batch":     func() error { _, err := conn.Batch(ctx, "b"); return err },
		"batches":   func() error { _, err := conn.Batches(ctx); return err },
		"cancel":    func() error { return conn.Cancel(ctx, "b") },
		"lock":      func() error { _, err := conn.Locker("w").Lock(ctx, "x"); return err },
	} {
		require.ErrorIs(t, call(), queue.ErrNotSetUp, what)
	}
}
