package deploy_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// TestRolesSuffice runs a fleet from its setup to its last command with a server
// that knows roles: nobody has more than the permissions of his own.
func TestRolesSuffice(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	f := newFleet(t, s.url)
	there, late := f.push("team/app:1"), f.registry.Host()+"/team/app:late"

	require.Contains(t, f.setup(), "stream SIGN_REQUESTS: made")
	require.Contains(t, f.setup(), "everything is set up as it should be")
	require.Contains(t, f.setup("--retention", "48h"), "stream SIGN_DEAD: max_age")
	require.Contains(t, f.run(1, "worker", "sign-worker", "setup"), "needs the credentials of the operator")
	worker := f.worker()

	// A submission that waits, and one that does not.
	list := f.list("images.txt", there, late)
	require.Contains(t, f.run(1, "submitter", "sign-submit", "--file", list), "2 images: 1 signed")
	f.requireSigned(there)
	require.Contains(t, f.run(0, "submitter", "sign-submit", "--file", list, "--detach", "--batch", "night"), "night")
	f.run(1, "submitter", "sign-submit", "wait", "night")
	f.run(0, "submitter", "sign-submit", "status", "night", "--output", "json")
	f.run(0, "submitter", "sign-submit", "status")
	require.Contains(t, f.run(0, "submitter", "sign-submit", "batches"), "night")
	require.Contains(t, f.run(0, "submitter", "sign-submit", "failed", "night", "--output", "json"), "not-found")
	require.Contains(t, f.run(0, "submitter", "sign-submit", "results", "night", "--output", "csv"), there)

	// What was missing is there now.
	require.Equal(t, late, f.push("team/app:late"))
	f.run(0, "submitter", "sign-submit", "retry", "night")
	f.run(0, "submitter", "sign-submit", "wait", "night")
	f.requireSigned(late)

	// Pausing is the operator's.
	require.Contains(t, f.run(1, "submitter", "sign-submit", "pause", "bulk"), "operator")
	f.run(0, "operator", "sign-submit", "pause", "bulk")
	f.run(0, "operator", "sign-submit", "pause", f.registry.Host())
	require.Contains(t, f.run(0, "submitter", "sign-submit", "status"), "bulk")
	f.run(0, "operator", "sign-submit", "resume", "bulk")
	f.run(0, "operator", "sign-submit", "resume", f.registry.Host())

	// Nobody serves while a batch is cancelled.
	f.drain(worker)
	f.run(0, "submitter", "sign-submit", "--file", list, "--detach", "--batch", "doomed")
	f.run(0, "submitter", "sign-submit", "cancel", "doomed")
	worker = f.worker()
	f.run(1, "submitter", "sign-submit", "wait", "doomed")

	event := f.push("team/event:1")
	require.Equal(t, queue.Signed, f.publishEvent(event).Verdict)
	f.requireSigned(event)
	f.drain(worker)
}

// TestOperatorSuffices: a small fleet may do everything with the credentials of
// the operator, and its workers then set up what is missing.
func TestOperatorSuffices(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	f := newFleet(t, func(string) string { return s.url("operator") })
	image := f.push("team/app:1")
	worker := f.worker("--request-bytes", "16MiB", "--record-bytes", "16MiB", "--bucket-bytes", "16MiB")
	require.Contains(t, f.setup(), "everything is set up as it should be")
	f.run(0, "operator", "sign-submit", "--file", f.list("images.txt", image))
	f.requireSigned(image)
	f.drain(worker)
}

// publishEvent has the fleet sign an image as a webhook would, and returns its outcome.
func (f *fleet) publishEvent(reference string) queue.Outcome {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	webhook := f.connect(ctx, queue.RoleWebhook)
	request := queue.Request{
		Batch: "push", Seq: 1, Line: queue.Text(reference), Reference: reference, SubmittedAt: time.Now(),
	}.Sealed()
	require.NoError(f.t, webhook.PublishEvent(ctx, "hook", request))

	var outcome queue.Outcome
	ended := errors.New("ended")
	err := f.connect(ctx, queue.RoleSubmitter).Follow(ctx, "push", func() error { return nil }, func(o queue.Outcome) error {
		if outcome = o; o.ID != request.ID {
			return nil
		}
		return ended
	})
	require.ErrorIs(f.t, err, ended)
	return outcome
}

func (f *fleet) connect(ctx context.Context, role queue.Role) *queue.Conn {
	f.t.Helper()
	conn, err := queue.Connect(ctx, queue.Options{URL: f.url(string(role)), Role: role})
	require.NoError(f.t, err)
	f.t.Cleanup(conn.Close)
	return conn
}
