package submit_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
	"github.com/signfleet/signfleet/internal/submit"
)

// All that is done about a batch, whoever submits may do with the permissions of
// the configuration that is shipped.
func TestSubmitterNeedsNoOtherRole(t *testing.T) {
	t.Parallel()
	url := queuetest.StartServerWithRoles(t, "../../deploy/nats/roles.conf")
	connect := func(role queue.Role) *queue.Conn {
		o := testOptions
		o.URL, o.Role = url(role), role
		conn, err := queue.Connect(t.Context(), o)
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		return conn
	}
	_, err := connect(queue.RoleOperator).Setup(t.Context())
	require.NoError(t, err)
	worker := connect(queue.RoleWorker)
	require.NoError(t, worker.Ensure(t.Context()))
	serve(t, worker, everyOther(ends(timesOut, signs), ends(signs)))

	conn := connect(queue.RoleSubmitter)
	o := optionsFor(writeList(t, manyLines(4)...))
	o.Batch = "nightly"
	submission := open(t, conn, o)
	require.NoError(t, submission.Run(t.Context()))
	require.Equal(t, 2, reportOf(t, submission).Failed())

	b, err := submit.Find(t.Context(), connect(queue.RoleSubmitter), "nightly")
	require.NoError(t, err)
	require.Equal(t, 2, reportOf(t, b).Failed())
	require.Equal(t, 2, retried(t, b, "timeout").Requests)
	require.NoError(t, b.Wait(t.Context(), nil))
	require.Empty(t, resultsOf(t, b))
	status, err := b.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, submit.Tally{Signed: 4}, status.Tally)
	require.NoError(t, b.Cancel(t.Context()))
	require.NoError(t, b.Finish(t.Context()))
	all, err := submit.Summaries(t.Context(), conn)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.True(t, all[0].Finished)
}
