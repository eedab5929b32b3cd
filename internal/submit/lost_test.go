package submit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
	"github.com/signfleet/signfleet/internal/submit"
)

// A server that loses power may lose what it acknowledged: here, three requests
// of four, whose messages are gone and have left no outcome.
func TestRequestsThatTheServerLostArePublishedAgain(t *testing.T) {
	t.Parallel()
	server := queuetest.StartServer(t)
	conn := queuetest.Connect(t, server, queue.Options{Partitions: 2, AckWait: 30 * time.Second})
	o := optionsFor(writeList(t, manyLines(4)...))
	o.Batch, o.CheckEvery = "nightly", 50*time.Millisecond
	require.NoError(t, open(t, conn, o).Publish(t.Context()))
	lane := conn.BulkLane()
	for left := 4; left > 0; {
		deliveries, err := lane.Next(t.Context(), left)
		require.NoError(t, err)
		for _, d := range deliveries {
			if d.Request.Seq == 2 {
				_, err := conn.Record(t.Context(), outcomeOf(d.Request, queue.Signed))
				require.NoError(t, err)
			}
			require.NoError(t, d.Done(t.Context()))
		}
		left -= len(deliveries)
	}
	// The new server does not remember the message ids either.
	conn = queuetest.Connect(t, queuetest.Restart(t, server), queue.Options{Partitions: 2, AckWait: 30 * time.Second})

	w := serve(t, conn, nil)
	s := open(t, conn, o)
	require.NoError(t, s.Run(t.Context()))
	report := reportOf(t, s)
	require.Equal(t, 4, report.Signed)
	require.Zero(t, report.Listed)
	require.Equal(t, map[int]int{1: 1, 3: 1, 4: 1}, w.stop(t))
}

// A request that no worker could read has an outcome without a seq and without
// a line; its line is on the failed list all the same.
func TestOutcomeWithoutASeqHasItsLine(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	s := open(t, conn, optionsFor(writeList(t, "r.example/app:1", "r.example/app:2")))
	serve(t, conn, func(r queue.Request) queue.Outcome {
		if r.Seq == 2 {
			return queue.Outcome{Verdict: queue.Signed}
		}
		_, err := conn.Record(t.Context(), queue.Outcome{
			ID: r.ID, Batch: r.Batch, Verdict: queue.Dead, Class: "invalid-request", Error: "unreadable", Worker: "stub",
		})
		require.NoError(t, err)
		return queue.Outcome{Verdict: queue.Signed} // refused: there is one
	})
	require.NoError(t, s.Run(t.Context()))
	report := reportOf(t, s)
	require.Equal(t, submit.Tally{Signed: 1, Dead: 1}, report.Tally)
	require.Equal(t, []queue.Text{"r.example/app:1"}, linesOf(t, report))
}

// An outcome that nobody can read is the only one its request will ever have:
// the batch comes to its end all the same, with the line on the failed list.
func TestOutcomeThatCannotBeReadEndsItsRequest(t *testing.T) {
	t.Parallel()
	server := queuetest.StartServer(t)
	conn := queuetest.Connect(t, server, queue.Options{Partitions: 2, AckWait: 30 * time.Second})
	o := optionsFor(writeList(t, manyLines(2)...))
	o.CheckEvery = 50 * time.Millisecond
	s := open(t, conn, o)
	require.NoError(t, s.Publish(t.Context()))
	lane := conn.BulkLane()
	for left := 2; left > 0; {
		deliveries, err := lane.Next(t.Context(), left)
		require.NoError(t, err)
		for _, d := range deliveries {
			if r := d.Request; r.Seq == 1 {
				queuetest.Publish(t, server, "sign.outcome."+r.Batch+"."+r.ID+".0", []byte("nonsense"))
			} else {
				_, err := conn.Record(t.Context(), outcomeOf(r, queue.Signed))
				require.NoError(t, err)
			}
			require.NoError(t, d.Done(t.Context()))
		}
		left -= len(deliveries)
	}
	require.NoError(t, s.Run(t.Context()))
	report := reportOf(t, s)
	require.Equal(t, submit.Tally{Signed: 1, Dead: 1}, report.Tally)
	require.Equal(t, []queue.Text{queue.Text(manyLines(2)[0])}, linesOf(t, report))
}

// A batch that has had its report is not run again, but its report can be had.
func TestFinishedBatch(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	serve(t, conn, nil)
	o := optionsFor(writeList(t, "r.example/app:1"))
	o.Batch = "nightly"
	s := open(t, conn, o)
	require.NoError(t, s.Run(t.Context()))
	require.NoError(t, s.Finish(t.Context()))

	_, err := submit.Open(t.Context(), conn, o)
	require.ErrorIs(t, err, submit.ErrFinished)
	o.Resume = true
	s = open(t, conn, o)
	require.NoError(t, s.Run(t.Context()))
	report := reportOf(t, s)
	require.Equal(t, 1, report.Signed)
}
