package queue_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// A server that knows roles lets each do its part, with the users that are
// shipped, and nobody another's.
func TestRolesDoTheirParts(t *testing.T) {
	t.Parallel()
	url := queuetest.StartServerWithRoles(t, "../../deploy/nats/roles.conf")
	ctx := within(t)
	as := func(role queue.Role) *queue.Conn {
		conn, err := queue.Connect(ctx, queue.Options{URL: url(role), Role: role, Unlimited: true, IdleWait: 100 * time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		return conn
	}
	submitter, webhook, worker, operator := as(queue.RoleSubmitter), as(queue.RoleWebhook), as(queue.RoleWorker), as(queue.RoleOperator)
	require.ErrorIs(t, worker.Ensure(ctx), queue.ErrNotSetUp)
	_, err := operator.Setup(ctx)
	require.NoError(t, err)
	changes, err := operator.Setup(ctx)
	require.NoError(t, err)
	require.Empty(t, changes)
	require.NoError(t, worker.Ensure(ctx))

	// A submission, its mark of cancellation and a retry.
	require.NoError(t, submitter.CreateBatch(ctx, queue.Batch{ID: "b"}))
	partition, err := submitter.EmptiestPartition(ctx)
	require.NoError(t, err)
	publish(t, submitter, partition, "b", 1)
	require.NoError(t, submitter.WriteBatch(ctx, queue.Batch{ID: "b", Published: true, Total: 1}))
	require.NoError(t, submitter.NoteRetry(ctx, queue.RetryNote{Batch: "b", Gen: 1, IDs: []string{"i"}}))
	require.NoError(t, submitter.Cancel(ctx, "b", 0))

	// A worker's part.
	d := one(t, worker.BulkLane())
	r := d.Request
	_, cancelled, err := worker.Cancelled(ctx, "b")
	require.NoError(t, err)
	require.True(t, cancelled)
	lease, err := worker.Locker("w").Lock(ctx, "image")
	require.NoError(t, err)
	require.NoError(t, lease.Unlock())
	require.NoError(t, worker.WriteLedger(ctx, r, queue.Entry{Attempts: 1}))
	_, known, err := worker.Ledger(ctx, r)
	require.NoError(t, err)
	require.True(t, known)
	dead := queue.Outcome{ID: r.ID, Batch: r.Batch, Verdict: queue.Dead}
	for range 2 { // the second reads what the first has stored
		_, err = worker.Record(ctx, dead)
		require.NoError(t, err)
		require.NoError(t, worker.Bury(ctx, queue.DeadLetter{Request: r}))
	}
	e := listen(t, worker)
	e.hears(t, worker, queue.Presence{Worker: "w", InWork: 1})
	requireEach(ctx, t, worker, submitter)
	require.NoError(t, d.Done(ctx))
	require.NoError(t, worker.ClearLedger(ctx, r))
	require.NoError(t, worker.Withdraw(ctx, "w"))
	e.knows(t, "w", away)

	// An event.
	event := queue.Request{Batch: "e", Seq: 1, Line: "example.org/a/b:1", Reference: "example.org/a/b:1"}.Sealed()
	require.NoError(t, webhook.PublishEvent(ctx, "hook", event))
	d = one(t, worker.EventLane())
	require.Equal(t, event.ID, d.Request.ID)
	require.NoError(t, d.Retry(ctx, time.Hour))

	// What an operator pauses the others see.
	require.NoError(t, operator.Pause(ctx, queue.Pause{Target: "bulk"}))
	_, paused, err := worker.Paused(ctx, "bulk")
	require.NoError(t, err)
	require.True(t, paused)
	pauses, err := submitter.Pauses(ctx)
	require.NoError(t, err)
	require.Len(t, pauses, 1)
	was, err := operator.Resume(ctx, "bulk")
	require.NoError(t, err)
	require.True(t, was)
}

// requireEach reads everything that a submitter may while a dead request of batch
// b is in the hands of a worker.
func requireEach(ctx context.Context, t *testing.T, worker, submitter *queue.Conn) {
	t.Helper()
	seen := make(map[string]int)
	require.NoError(t, submitter.Outcomes(ctx, "b", func(queue.Outcome) error { seen["outcome"]++; return nil }))
	require.NoError(t, submitter.DeadLetters(ctx, "b", func(queue.DeadLetter) error { seen["dead letter"]++; return nil }))
	require.NoError(t, submitter.LedgerOf(ctx, "b", func(queue.LedgerLine) error { seen["ledger"]++; return nil }))
	require.NoError(t, submitter.RetryNotes(ctx, "b", func(queue.RetryNote) error { seen["note"]++; return nil }))
	require.NoError(t, submitter.BatchRecords(ctx, func(queue.Batch) error { seen["batch"]++; return nil }))
	require.Equal(t, map[string]int{"outcome": 1, "dead letter": 1, "ledger": 1, "note": 1, "batch": 1}, seen)
	backlog, err := submitter.Backlog(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, backlog.Bulk)
	waiting, err := submitter.Waiting(ctx, "b")
	require.NoError(t, err)
	require.Equal(t, 1, waiting)
	for _, conn := range []*queue.Conn{submitter, worker} {
		present, err := conn.Present(ctx)
		require.NoError(t, err)
		require.Len(t, present, 1)
	}
}

func TestRolesDoNoOthersPart(t *testing.T) {
	t.Parallel()
	url := queuetest.StartServerWithRoles(t, "../../deploy/nats/roles.conf")
	operator, err := queue.Connect(t.Context(), queue.Options{URL: url(queue.RoleOperator), Role: queue.RoleOperator, Unlimited: true})
	require.NoError(t, err)
	t.Cleanup(operator.Close)
	_, err = operator.Setup(t.Context())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		role queue.Role
		call func(ctx context.Context, c *queue.Conn) error
	}{
		"submitter sets up": {queue.RoleSubmitter, func(ctx context.Context, c *queue.Conn) error {
			return errorOf(c.Setup(ctx))
		}},
		"submitter pauses": {queue.RoleSubmitter, func(ctx context.Context, c *queue.Conn) error {
			return c.Pause(ctx, queue.Pause{Target: "bulk"})
		}},
		"submitter takes requests": {queue.RoleSubmitter, func(ctx context.Context, c *queue.Conn) error {
			return errorOf(c.EventLane().Next(ctx, 1))
		}},
		"submitter hears workers": {queue.RoleSubmitter, func(ctx context.Context, c *queue.Conn) error {
			return c.Presences(ctx, func(queue.Presence, time.Duration) {}, func(string) {})
		}},
		"worker submits": {queue.RoleWorker, func(ctx context.Context, c *queue.Conn) error {
			return c.CreateBatch(ctx, queue.Batch{ID: "w"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := queue.Connect(t.Context(), queue.Options{URL: url(c.role), Role: c.role, IdleWait: 100 * time.Millisecond, Unlimited: true})
			require.NoError(t, err)
			t.Cleanup(conn.Close)
			denied := new(queue.DeniedError)
			require.ErrorAs(t, c.call(within(t), conn), &denied)
		})
	}
}

func errorOf[T any](_ T, err error) error { return err }

// Without a place for answers nothing would come of any question: that is told at once.
func TestCredentialsOfAnotherRoleAreRefused(t *testing.T) {
	t.Parallel()
	url := queuetest.StartServerWithRoles(t, "../../deploy/nats/roles.conf")
	for _, role := range []queue.Role{"", queue.RoleWebhook, queue.RoleWorker, queue.RoleOperator} {
		_, err := queue.Connect(t.Context(), queue.Options{URL: url(queue.RoleSubmitter), Role: role})
		denied := new(queue.DeniedError)
		require.ErrorAs(t, err, &denied, role)
		require.NotContains(t, err.Error(), "submitter:")
	}
	// The operator may take any part.
	for _, role := range []queue.Role{"", queue.RoleSubmitter, queue.RoleWebhook, queue.RoleWorker} {
		conn, err := queue.Connect(t.Context(), queue.Options{URL: url(queue.RoleOperator), Role: role})
		require.NoError(t, err, role)
		conn.Close()
	}
}
