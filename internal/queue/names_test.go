package queue_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// second are the prefixes of another fleet.
var second = queue.Options{StreamPrefix: "FLEET2", SubjectPrefix: "fleet2"}

// The fleets of one account have the same names for their batches, and nothing in
// common.
func TestFleetsOfOneAccountDoNotMeet(t *testing.T) {
	t.Parallel()
	srv, one := newQueue(t, queue.Options{})
	two := connect(t, srv, second)
	requireApart(t, one, two)
}

// requireApart does with one fleet all that leaves something on the server, and
// sees that another one knows of nothing.
func requireApart(t *testing.T, fleet, other *queue.Conn) {
	t.Helper()
	ctx := within(t)
	r := request("b", 1)
	use := func(conn *queue.Conn, partition int) {
		ctx := within(t)
		require.NoError(t, conn.CreateBatch(ctx, queue.Batch{ID: "b", Partition: partition}))
		publish(t, conn, partition, "b", 1)
		require.NoError(t, conn.PublishEvent(ctx, "hook", request("e", 1)))
		require.NoError(t, conn.WriteLedger(ctx, r, queue.Entry{Attempts: 1}))
		require.NoError(t, conn.Announce(ctx, queue.Presence{Worker: "w"}))
		require.NoError(t, conn.Pause(ctx, queue.Pause{Target: "bulk"}))
		require.NoError(t, conn.Cancel(ctx, "b", 0))
		require.NoError(t, conn.NoteRetry(ctx, queue.RetryNote{Batch: "b", Gen: 1, IDs: []string{r.ID}}))
		stored, err := conn.Record(ctx, queue.Outcome{ID: r.ID, Batch: "b", Verdict: queue.Dead, Worker: "w"})
		require.NoError(t, err)
		require.Equal(t, "w", stored.Worker)
		require.NoError(t, conn.Bury(ctx, queue.DeadLetter{Request: r}))
	}
	use(fleet, 1)
	lease, err := fleet.Locker("w").Lock(ctx, "image")
	require.NoError(t, err)

	require.Empty(t, listOf(ctx, t, other))
	backlog, err := other.Backlog(ctx)
	require.NoError(t, err)
	require.Zero(t, backlog.Bulk+backlog.Event)
	short, end := context.WithTimeout(ctx, time.Second)
	defer end()
	got, err := other.BulkLane().Next(short, 8)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, got)

	// The same again is no second one: it is another's.
	use(other, 0)
	require.Equal(t, listOf(ctx, t, fleet), listOf(ctx, t, other))
	others, err := other.Locker("w").Lock(ctx, "image")
	require.NoError(t, err)
	require.NoError(t, others.Unlock())
	require.NoError(t, lease.Unlock())
	for _, conn := range []*queue.Conn{fleet, other} {
		for _, lane := range []*queue.Lane{conn.BulkLane(), conn.EventLane()} {
			require.NoError(t, one(t, lane).Done(ctx))
		}
		backlog, err := conn.Backlog(ctx)
		require.NoError(t, err)
		require.Zero(t, backlog.Bulk+backlog.Event)
	}
}

// listOf says what a fleet has records of.
func listOf(ctx context.Context, t *testing.T, conn *queue.Conn) []string {
	t.Helper()
	list, err := conn.Batches(ctx)
	require.NoError(t, err)
	note := func(what string) { list = append(list, what) }
	require.NoError(t, conn.BatchRecords(ctx, func(b queue.Batch) error { note("record " + b.ID); return nil }))
	require.NoError(t, conn.Outcomes(ctx, "b", func(o queue.Outcome) error { note("outcome " + o.ID); return nil }))
	require.NoError(t, conn.DeadLetters(ctx, "b", func(l queue.DeadLetter) error { note("letter " + l.Request.ID); return nil }))
	require.NoError(t, conn.LedgerOf(ctx, "b", func(l queue.LedgerLine) error { note("ledger " + l.ID); return nil }))
	require.NoError(t, conn.RetryNotes(ctx, "b", func(n queue.RetryNote) error { note("note " + n.IDs[0]); return nil }))
	present, err := conn.Present(ctx)
	require.NoError(t, err)
	for _, p := range present {
		note("worker " + p.Worker)
	}
	pauses, err := conn.Pauses(ctx)
	require.NoError(t, err)
	for _, p := range pauses {
		note("pause " + p.Target)
	}
	if _, cancelled, err := conn.Cancelled(ctx, "b"); cancelled || err != nil {
		require.NoError(t, err)
		note("cancelled b")
	}
	return list
}

// All that a fleet makes on the server is called as it is told, and as the
// documents say.
func TestNamesBeginWithThePrefixes(t *testing.T) {
	t.Parallel()
	for stream, o := range map[string]queue.Options{
		"SIGN": {SubjectPrefix: "sign"}, "FLEET2": second, "A-1_B": {StreamPrefix: "A-1_B", SubjectPrefix: "team.a_1.Sign"},
	} {
		srv := queuetest.StartServer(t)
		o.URL, o.Partitions, o.Unlimited = srv.ClientURL(), 2, true
		conn, err := queue.Connect(within(t), o)
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		changes, err := conn.Setup(within(t))
		require.NoError(t, err)
		told := make([]string, 0, len(changes))
		for _, change := range changes {
			told = append(told, change.Name)
		}
		require.Equal(t, []string{
			"stream " + stream + "_REQUESTS", "stream " + stream + "_OUTCOMES", "stream " + stream + "_DEAD",
			"bucket " + stream + "_BATCHES", "bucket " + stream + "_LEDGER", "bucket " + stream + "_LOCKS", "bucket " + stream + "_WORKERS", "bucket " + stream + "_CONTROL",
			"consumer bulk-00", "consumer bulk-01", "consumer event",
		}, told)

		_, js := raw(t, srv)
		subjects := make(map[string]string)
		list := js.ListStreams(within(t))
		for info := range list.Info() {
			require.Len(t, info.Config.Subjects, 1)
			subjects[info.Config.Name] = info.Config.Subjects[0]
		}
		require.NoError(t, list.Err())
		want := map[string]string{
			stream + "_REQUESTS": o.SubjectPrefix + ".request.>", stream + "_OUTCOMES": o.SubjectPrefix + ".outcome.>", stream + "_DEAD": o.SubjectPrefix + ".dead.>",
		}
		for _, bucket := range []string{"BATCHES", "LEDGER", "LOCKS", "WORKERS", "CONTROL"} {
			want["KV_"+stream+"_"+bucket] = "$KV." + stream + "_" + bucket + ".>"
		}
		require.Equal(t, want, subjects)

		publish(t, conn, 1, "b", 1)
		require.NoError(t, conn.PublishEvent(within(t), "hook", request("e", 1)))
		requests, err := js.Stream(within(t), stream+"_REQUESTS")
		require.NoError(t, err)
		info, err := requests.Info(within(t), jetstream.WithSubjectFilter(">"))
		require.NoError(t, err)
		require.Equal(t, map[string]uint64{
			o.SubjectPrefix + ".request.bulk.01.b": 1, o.SubjectPrefix + ".request.event.hook.e": 1,
		}, info.State.Subjects)
	}
}

func TestPrefixesThatMakeNoNamesAreRefused(t *testing.T) {
	t.Parallel()
	with := func(stream, subject string) error {
		return queue.Options{URL: "nats://127.0.0.1:1", StreamPrefix: stream, SubjectPrefix: subject}.Validate()
	}
	for _, stream := range []string{"SIGN", "FLEET2", "A", "A-B_C", "KVS", strings.Repeat("A", 32)} {
		require.NoError(t, with(stream, ""), stream)
	}
	for _, stream := range []string{"sign", "A.B", "A B", "A*", ">", "$A", "A\n", "Ä", strings.Repeat("A", 33), "KV", "KV_SIGN", "OBJ", "OBJ_A"} {
		require.ErrorContains(t, with(stream, ""), "stream-prefix: ", stream)
	}
	for _, subject := range []string{"sign", "fleet2", "a.b.c", "Team_1-x", strings.Repeat("a", 64)} {
		require.NoError(t, with("", subject), subject)
	}
	for _, subject := range []string{"$KV", "$JS.API", "_INBOX", "_INBOX.worker", "_x", ".a", "a.", "a..b", "a b", "*", "a.>", "a\n", "ä", strings.Repeat("a", 65)} {
		require.ErrorContains(t, with("", subject), "subject-prefix: ", subject)
	}
}

// Of two fleets in an account, both prefixes differ.
func TestHalfAPrefixIsToldWithARemedy(t *testing.T) {
	t.Parallel()
	srv, _ := newQueue(t, queue.Options{})
	for remedy, o := range map[string]queue.Options{
		"choose another subject-prefix":                       {StreamPrefix: "FLEET2"},
		"another stream takes the subjects [sign.request.>]":  {StreamPrefix: "FLEET2"},
		"its subjects are [sign.request.>], not [fleet2.requ": {SubjectPrefix: "fleet2"},
		"give the subject-prefix that it was made with":       {SubjectPrefix: "fleet2"},
		"takes the subjects [sign.request.request.>]":         {StreamPrefix: "FLEET3", SubjectPrefix: "sign.request"},
	} {
		conn := stranger(t, srv, o)
		conflict := new(queue.ConflictError)
		_, err := conn.Setup(within(t))
		require.ErrorAs(t, err, &conflict)
		require.ErrorContains(t, err, remedy)
		require.ErrorContains(t, err, "another NATS account")
		require.ErrorAs(t, conn.Ensure(within(t)), &conflict)
	}
	// A bucket's subjects follow from its name.
	_, js := raw(t, srv)
	_, err := js.CreateStream(within(t), jetstream.StreamConfig{Name: "STRANGER", Subjects: []string{"$KV.FLEET4_LOCKS.>"}})
	require.NoError(t, err)
	_, err = stranger(t, srv, queue.Options{StreamPrefix: "FLEET4", SubjectPrefix: "fleet4"}).Setup(within(t))
	require.ErrorContains(t, err, "choose another stream-prefix")

	_, err = stranger(t, srv, queue.Options{StreamPrefix: "FLEET5", SubjectPrefix: "fleet5"}).EmptiestPartition(within(t))
	require.ErrorIs(t, err, queue.ErrNotSetUp)
	require.ErrorContains(t, err, "stream-prefix FLEET5")
}

// A server that knows roles says which subjects of this fleet they may not use.
func TestDeniedSubjectsAreThoseOfTheFleet(t *testing.T) {
	t.Parallel()
	url := queuetest.StartServerWithRoles(t, rolesFor(t, "FLEET2", "fleet2"))
	as := func(role queue.Role, o queue.Options) *queue.Conn {
		o.URL, o.Role, o.Unlimited, o.IdleWait = url(role), role, true, 100*time.Millisecond
		conn, err := queue.Connect(within(t), o)
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		return conn
	}
	_, err := as(queue.RoleOperator, second).Setup(within(t))
	require.NoError(t, err)
	worker, submitter := as(queue.RoleWorker, second), as(queue.RoleSubmitter, second)
	require.NoError(t, worker.Ensure(within(t)))
	publish(t, submitter, 0, "b", 1)
	require.NoError(t, one(t, worker.BulkLane()).Done(within(t)))

	for want, err := range map[string]error{
		"fleet2.outcome.b.i.0":           errorOf(submitter.Record(within(t), queue.Outcome{Batch: "b", ID: "i"})),
		"$KV.FLEET2_CONTROL.lane.bulk":   submitter.Pause(within(t), queue.Pause{Target: "bulk"}),
		"$JS.API.CONSUMER.MSG.NEXT.FLEE": errorOf(submitter.EventLane().Next(within(t), 1)),
		"fleet2.request.event.hook.b":    worker.PublishEvent(within(t), "hook", request("b", 1)),
		"fleet2.request.bulk.00.b":       flushed(t, as(queue.RoleWebhook, second)),
		"$KV.FLEET2_BATCHES.b":           worker.CreateBatch(within(t), queue.Batch{ID: "b"}),
		// Those of a fleet that somebody means by mistake.
		"sign.request.event.hook.b":           as(queue.RoleWebhook, queue.Options{}).PublishEvent(within(t), "hook", request("b", 1)),
		"$JS.API.STREAM.INFO.SIGN_REQUESTS":   as(queue.RoleWorker, queue.Options{}).Ensure(within(t)),
		"$JS.API.DIRECT.GET.KV_SIGN_BATCHES.": errorOf(as(queue.RoleSubmitter, queue.Options{}).Batch(within(t), "b")),
	} {
		denied := new(queue.DeniedError)
		require.ErrorAs(t, err, &denied, want)
		require.Contains(t, denied.Subject, want)
	}
}

// flushed is the error of a batch that is published.
func flushed(t *testing.T, conn *queue.Conn) error {
	t.Helper()
	p := conn.Publisher(0)
	require.NoError(t, p.Publish(within(t), request("b", 1)))
	return p.Flush(within(t))
}

// rolesFor is a copy of the roles that are shipped, for a fleet of other names.
func rolesFor(t *testing.T, stream, subject string) string {
	t.Helper()
	roles, err := os.ReadFile("../../deploy/nats/roles.conf")
	require.NoError(t, err)
	text := strings.NewReplacer("SIGN_", stream+"_", `"sign.`, `"`+subject+".", ".sign.", "."+subject+".").Replace(string(roles))
	file := filepath.Join(t.TempDir(), "roles.conf")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}
