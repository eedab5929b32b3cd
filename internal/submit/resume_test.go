package submit_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

// A submitter that is killed notes nothing any more: the next one publishes some
// again that are there, and none counts twice.
func TestKilledWhilePublishing(t *testing.T) {
	t.Parallel()
	const lines = 1500 // more than may be without an answer at once
	s := newService(t)
	o := optionsFor(writeList(t, manyLines(lines)...))
	o.Batch = "nightly"
	killed := s.connect()
	fuse := newFuse(t.Context(), 1200)
	context.AfterFunc(fuse.Context, killed.Close)
	err := open(t, killed, o).Publish(fuse)
	var partly *submit.PublishError
	require.ErrorAs(t, err, &partly)
	record, err := s.conn.Batch(t.Context(), "nightly")
	require.NoError(t, err)
	require.False(t, record.Published)

	o.Resume = true
	w := serve(t, s.conn, nil)
	again := open(t, s.conn, o)
	require.NoError(t, again.Run(t.Context()))
	require.Equal(t, submit.Tally{Signed: lines}, again.Progress().Tally)
	require.Equal(t, submit.Tally{Signed: lines}, reportOf(t, s.find(t, "nightly")).Tally)
	delivered := w.stop(t)
	require.Len(t, delivered, lines)
	for seq, times := range delivered {
		require.Equal(t, 1, times, "request %d", seq)
	}
}

// Detached, too, nothing is published that has ended: outside the duplicate
// window the server would take it.
func TestDetachedResumptionPublishesWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := optionsFor(writeList(t, manyLines(6)...))
	o.Batch = "nightly"
	var told int
	o.OnPublished = func(total int) { told = total }
	open(t, s.conn, o)
	for seq, line := range manyLines(4) {
		r := queue.Request{Batch: "nightly", Seq: seq + 1, Line: queue.Text(line), Reference: line, Platforms: o.Platforms}.Sealed()
		_, err := s.conn.Record(t.Context(), outcomeOf(r, queue.Signed))
		require.NoError(t, err)
	}
	require.NoError(t, open(t, s.conn, o).Publish(t.Context()))
	require.Equal(t, 6, told)
	waiting, err := s.conn.Waiting(t.Context(), "nightly")
	require.NoError(t, err)
	require.Equal(t, 2, waiting)
	w := serve(t, s.conn, nil)
	require.NoError(t, s.find(t, "nightly").Wait(t.Context(), nil))
	require.Equal(t, map[int]int{5: 1, 6: 1}, w.stop(t))
}

// Two processes that submit the same under one name share the batch.
func TestTwoSubmissionsOfOneBatch(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := optionsFor(writeList(t, manyLines(500)...))
	o.Batch = "nightly"
	w := serve(t, s.conn, nil)
	type end struct {
		tally submit.Tally
		err   error
	}
	ends := make(chan end)
	for range 2 {
		conn := s.connect()
		go func() {
			submission, err := submit.Open(t.Context(), conn, o)
			if err != nil {
				ends <- end{err: err}
				return
			}
			err = submission.Run(t.Context())
			ends <- end{submission.Progress().Tally, err}
		}()
	}
	for range 2 {
		e := <-ends
		require.NoError(t, e.err)
		require.Equal(t, submit.Tally{Signed: 500}, e.tally)
	}
	for seq, times := range w.stop(t) {
		require.Equal(t, 1, times, "request %d", seq)
	}
	record, err := s.conn.Batch(t.Context(), "nightly")
	require.NoError(t, err)
	require.True(t, record.Published)
	require.Equal(t, 500, record.Total)
	require.Equal(t, 500, record.Accepted)
}
