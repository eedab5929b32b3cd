package queue_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func setup(ctx context.Context, conn *queue.Conn) error {
	_, err := conn.Setup(ctx)
	return err
}

func TestSetupMakesWhatIsMissingAndAdjustsTheRest(t *testing.T) {
	t.Parallel()
	srv := queuetest.StartServer(t)
	o := queue.Options{Partitions: 2, RequestBytes: 1 << 20, RecordBytes: 1 << 20, BucketBytes: 1 << 20}
	changes, err := stranger(t, srv, o).Setup(within(t))
	require.NoError(t, err)
	require.Len(t, changes, 3+5+2+1)
	for _, change := range changes {
		require.Equal(t, "made", change.What)
	}
	changes, err = stranger(t, srv, o).Setup(within(t))
	require.NoError(t, err)
	require.Empty(t, changes, "the second time there is nothing to do")

	o.Partitions, o.Retention, o.RecordBytes, o.AckWait, o.DuplicateWindow, o.LedgerAge = 3, time.Hour, -1, 3*time.Second, time.Minute, 2*time.Hour
	changes, err = stranger(t, srv, o).Setup(within(t))
	require.NoError(t, err)
	require.Equal(t, []queue.Change{
		{Name: "stream SIGN_REQUESTS", What: "duplicate_window 10m0s to 1m0s"},
		{Name: "stream SIGN_OUTCOMES", What: "max_age 720h0m0s to 1h0m0s"},
		{Name: "stream SIGN_OUTCOMES", What: "max_bytes 1048576 to -1"},
		{Name: "stream SIGN_DEAD", What: "max_age 720h0m0s to 1h0m0s"},
		{Name: "stream SIGN_DEAD", What: "max_bytes 1048576 to -1"},
		{Name: "bucket SIGN_BATCHES", What: "max_age 720h0m0s to 1h0m0s"},
		{Name: "bucket SIGN_LEDGER", What: "max_age 168h0m0s to 2h0m0s"},
		{Name: "consumer bulk-00", What: "ack_wait 30s to 3s"},
		{Name: "consumer bulk-01", What: "ack_wait 30s to 3s"},
		{Name: "consumer bulk-02", What: "made"},
		{Name: "consumer event", What: "ack_wait 30s to 3s"},
	}, changes)
	_, js := raw(t, srv)
	outcomes, err := js.Stream(within(t), "SIGN_OUTCOMES")
	require.NoError(t, err)
	require.Equal(t, time.Hour, outcomes.CachedInfo().Config.MaxAge)
	require.Equal(t, int64(-1), outcomes.CachedInfo().Config.MaxBytes)
	changes, err = stranger(t, srv, o).Setup(within(t))
	require.NoError(t, err)
	require.Empty(t, changes)
}

func TestEnsureChangesNothingAndLearns(t *testing.T) {
	t.Parallel()
	srv, _ := newQueue(t, queue.Options{Partitions: 3, Retention: time.Hour, AckWait: 7 * time.Second})
	conn := stranger(t, srv, queue.Options{Partitions: 16, AckWait: time.Minute, Retention: 2 * time.Hour, RequestBytes: 1 << 20})
	require.NoError(t, conn.Ensure(within(t)))
	require.Equal(t, 3, conn.Partitions())
	require.Equal(t, 7*time.Second, conn.AckWait())
	publish(t, conn, 2, "b", 1)
	require.NoError(t, one(t, conn.BulkLane()).Done(within(t)))

	_, js := raw(t, srv)
	for name, age := range map[string]time.Duration{"SIGN_REQUESTS": 0, "SIGN_OUTCOMES": time.Hour} {
		s, err := js.Stream(within(t), name)
		require.NoError(t, err)
		require.Equal(t, age, s.CachedInfo().Config.MaxAge)
		require.Equal(t, int64(-1), s.CachedInfo().Config.MaxBytes)
	}
}

func TestEnsureMakesWhatIsMissing(t *testing.T) {
	t.Parallel()
	srv := queuetest.StartServer(t)
	conn := stranger(t, srv, queue.Options{Partitions: 2, Unlimited: true})
	require.NoError(t, conn.Ensure(within(t)))
	changes, err := stranger(t, srv, queue.Options{Partitions: 2, Unlimited: true}).Setup(within(t))
	require.NoError(t, err)
	require.Empty(t, changes)

	_, js := raw(t, srv)
	require.NoError(t, js.DeleteConsumer(within(t), "SIGN_REQUESTS", "event"))
	require.NoError(t, stranger(t, srv, queue.Options{}).Ensure(within(t)))
	_, err = js.Consumer(within(t), "SIGN_REQUESTS", "event")
	require.NoError(t, err)
}

func TestAPartitionMadeLaterIsServed(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{Partitions: 2})
	lane := conn.BulkLane()
	publish(t, conn, 0, "b", 1)
	require.NoError(t, one(t, lane).Done(within(t)))
	more := connect(t, srv, queue.Options{Partitions: 5})
	publish(t, more, 4, "b", 2)
	require.NoError(t, one(t, lane).Done(within(t)))
}

func TestALanesOnlyPartitionGetsOthers(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{Partitions: 1})
	lane := conn.BulkLane()
	publish(t, conn, 0, "b", 1)
	require.NoError(t, one(t, lane).Done(within(t)))
	more := connect(t, srv, queue.Options{Partitions: 4})
	publish(t, more, 3, "b", 2)
	require.NoError(t, one(t, lane).Done(within(t)))
}

// Submitters find partitions by their consumers: none behind a gap stays unserved.
func TestAGapAmongThePartitionsIsClosed(t *testing.T) {
	t.Parallel()
	srv, _ := newQueue(t, queue.Options{Partitions: 4})
	_, js := raw(t, srv)
	require.NoError(t, js.DeleteConsumer(within(t), "SIGN_REQUESTS", "bulk-02"))
	conn := stranger(t, srv, queue.Options{})
	require.NoError(t, conn.Ensure(within(t)))
	require.Equal(t, 4, conn.Partitions())
	for p := range 4 {
		publish(t, conn, p, "b", p+1)
	}
	lane := conn.BulkLane()
	for range 4 {
		require.NoError(t, one(t, lane).Done(within(t)))
	}
}

func TestWithoutPermissionItIsSaid(t *testing.T) {
	t.Parallel()
	srv := queuetest.StartServerWith(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "operator", Password: "p"},
			{Username: "nobody", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{
				Allow: []string{"$JS.API.STREAM.INFO.>"},
			}}},
		}
	})
	connectAs := func(user string) *queue.Conn {
		conn, err := queue.Connect(within(t), queue.Options{URL: strings.Replace(srv.ClientURL(), "://", "://"+user+":p@", 1), Partitions: 2, Unlimited: true})
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		return conn
	}
	nobody := connectAs("nobody")
	err := nobody.Ensure(within(t))
	require.ErrorIs(t, err, queue.ErrNotSetUp)
	var denied *queue.DeniedError
	require.ErrorAs(t, err, &denied)
	require.Equal(t, "$JS.API.STREAM.CREATE.SIGN_REQUESTS", denied.Subject)
	require.ErrorContains(t, err, "sign-worker setup")

	require.NoError(t, setup(within(t), connectAs("operator")))
	_, err = nobody.Record(within(t), queue.Outcome{Batch: "b", ID: "i"})
	require.ErrorAs(t, err, &denied, "and not a timeout that is waited out")
	require.Equal(t, "sign.outcome.b.i.0", denied.Subject)
}

func TestSetupOrphansNoPartition(t *testing.T) {
	t.Parallel()
	srv, _ := newQueue(t, queue.Options{Partitions: 4})
	var conflict *queue.ConflictError
	require.ErrorAs(t, setup(within(t), stranger(t, srv, queue.Options{Partitions: 2})), &conflict)
	require.Equal(t, "SIGN_REQUESTS", conflict.Stream)
	require.Equal(t, "it has 4 partitions, and 2 are asked for", conflict.Difference)
	require.ErrorContains(t, conflict, "bulk-02")
	require.NotContains(t, conflict.Error(), "made by something else")

	require.NoError(t, setup(within(t), stranger(t, srv, queue.Options{Partitions: 4})))
	require.NoError(t, setup(within(t), stranger(t, srv, queue.Options{Partitions: 6})))
	require.ErrorAs(t, setup(within(t), stranger(t, srv, queue.Options{Partitions: 4})), &conflict)
}

func TestSetupByManyAtOnce(t *testing.T) {
	t.Parallel()
	srv := queuetest.StartServer(t)
	var group errgroup.Group
	for n := range 8 {
		conn := stranger(t, srv, queue.Options{Partitions: 3})
		group.Go(func() error {
			if n%2 == 0 {
				return conn.Ensure(within(t))
			}
			return setup(within(t), conn)
		})
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
		"it holds 7 messages of each":        with(requests, func(c config) { c.MaxMsgsPerSubject = 7 }),
		"forgets messages after 1h":          with(requests, func(c config) { c.MaxAge = time.Hour }),
		"its storage is":                     with(requests, func(c config) { c.Storage = jetstream.MemoryStorage }),
		"refuse a second":                    with(outcomes, func(c config) { c.DiscardNewPerSubject = false }),
		"direct get":                         with(outcomes, func(c config) { c.AllowDirect = false }),
		"allow_msg_ttl":                      locks,
		"messages after 1h0m0s":              with(locks, func(c config) { c.AllowMsgTTL = true; c.MaxAge = time.Hour }),
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
			for _, err := range []error{setup(within(t), conn), conn.Ensure(within(t))} {
				var conflict *queue.ConflictError
				require.ErrorAs(t, err, &conflict)
				require.Contains(t, conflict.Difference, difference)
				require.ErrorContains(t, conflict, conflict.Stream)
			}
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
		"cancelled": func() error { _, _, err := conn.Cancelled(ctx, "b"); return err },
		"batch":     func() error { _, err := conn.Batch(ctx, "b"); return err },
		"batches":   func() error { _, err := conn.Batches(ctx); return err },
		"cancel":    func() error { return conn.Cancel(ctx, "b", 0) },
		"paused":    func() error { _, _, err := conn.Paused(ctx, "bulk"); return err },
		"pause":     func() error { return conn.Pause(ctx, queue.Pause{Target: "bulk"}) },
		"present":   func() error { _, err := conn.Present(ctx); return err },
		"announce":  func() error { return conn.Announce(ctx, queue.Presence{Worker: "w"}) },
		"records":   func() error { return conn.BatchRecords(ctx, func(queue.Batch) error { return nil }) },
		"backlog":   func() error { _, err := conn.Backlog(ctx); return err },
		"events":    func() error { return conn.PublishEvent(ctx, "hub", r) },
		"lock":      func() error { _, err := conn.Locker("w").Lock(ctx, "x"); return err },
	} {
		require.ErrorIs(t, call(), queue.ErrNotSetUp, what)
	}
}
