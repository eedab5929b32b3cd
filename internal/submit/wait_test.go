package submit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

func TestWaitFromTheBeginning(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := optionsFor(writeList(t, manyLines(200)...))
	o.Batch = "nightly"
	submission := open(t, s.conn, o)
	var last submit.Progress
	ended := make(chan error, 1)
	b := s.find(t, "nightly")
	go func() { ended <- b.Wait(t.Context(), func(p submit.Progress) { last = p }) }()
	serve(t, s.conn, nil)
	require.NoError(t, submission.Publish(t.Context()))
	require.NoError(t, <-ended)
	require.Equal(t, submit.Tally{Signed: 200}, last.Tally)
	require.NoError(t, b.Wait(t.Context(), nil), "and once more, when all is done")
}

func TestWaitSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := optionsFor(writeList(t, manyLines(40)...))
	o.Batch = "nightly"
	require.NoError(t, open(t, s.conn, o).Publish(t.Context()))
	half, reached := context.WithCancel(t.Context())
	defer reached()
	b := s.find(t, "nightly")
	ended := make(chan error, 1)
	go func() {
		ended <- b.Wait(t.Context(), func(p submit.Progress) {
			if p.Done() == 20 {
				reached()
			}
		})
	}()
	lane := s.conn.BulkLane()
	end := func(left int) {
		for left > 0 {
			deliveries, err := lane.Next(t.Context(), left)
			require.NoError(t, err)
			for _, d := range deliveries {
				_, err := s.conn.Record(t.Context(), outcomeOf(d.Request, queue.Signed))
				require.NoError(t, err)
				require.NoError(t, d.Done(t.Context()))
			}
			left -= len(deliveries)
		}
	}
	end(20)
	<-half.Done()
	s.restart()
	end(20)
	require.NoError(t, <-ended)
	require.Equal(t, submit.Tally{Signed: 40}, reportOf(t, b).Tally)
}

// A retry that somebody asks for while a batch is waited for is waited for too.
func TestWaitGoesOnOverARetry(t *testing.T) {
	t.Parallel()
	s := newService(t)
	hold := make(chan struct{})
	serve(t, s.conn, func(r queue.Request) queue.Outcome {
		if r.Gen > 0 {
			return signs
		}
		if r.Seq == 5 {
			<-hold
		}
		return timesOut
	})
	o := optionsFor(writeList(t, manyLines(5)...))
	o.Batch = "nightly"
	require.NoError(t, open(t, s.conn, o).Publish(t.Context()))
	four := make(chan struct{})
	b := s.find(t, "nightly")
	ended := make(chan error, 1)
	go func() {
		ended <- b.Wait(t.Context(), func(p submit.Progress) {
			if p.Dead == 4 {
				close(four)
			}
		})
	}()
	<-four
	require.Equal(t, 4, retried(t, s.find(t, "nightly"), "").Requests)
	close(hold)
	require.NoError(t, <-ended)
	require.Equal(t, submit.Tally{Signed: 4, Dead: 1}, reportOf(t, b).Tally)
}

func TestWaitForWhatNeverComes(t *testing.T) {
	t.Parallel()
	t.Run("requests that the server lost", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		o := optionsFor(writeList(t, manyLines(3)...))
		o.Batch = "nightly"
		require.NoError(t, open(t, s.conn, o).Publish(t.Context()))
		lane := s.conn.BulkLane()
		for left := 3; left > 0; {
			deliveries, err := lane.Next(t.Context(), left)
			require.NoError(t, err)
			for _, d := range deliveries {
				require.NoError(t, d.Done(t.Context()), "and no outcome")
			}
			left -= len(deliveries)
		}
		err := s.find(t, "nightly").Wait(t.Context(), nil)
		stalled := new(submit.StalledError)
		require.ErrorAs(t, err, &stalled)
		require.Equal(t, submit.StalledError{Batch: "nightly", Missing: 3, Published: true}, *stalled)
		require.ErrorContains(t, err, "3 of its requests")
	})
	t.Run("a submission that is still going on", func(t *testing.T) {
		t.Parallel()
		s := newService(t)
		o := optionsFor(writeList(t, manyLines(3)...))
		o.Batch = "nightly"
		open(t, s.conn, o)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, s.find(t, "nightly").Wait(ctx, nil), context.DeadlineExceeded, "its record is fresh")
	})
}

func TestSummaries(t *testing.T) {
	t.Parallel()
	s := newService(t)
	serve(t, s.conn, nil)
	submitted(t, s, "first", 2)
	require.NoError(t, s.find(t, "first").Finish(t.Context()))
	submitted(t, s, "another", 1)
	require.NoError(t, s.find(t, "another").Cancel(t.Context()))
	r := queue.Request{Batch: "pushed", Reference: "r.example/app:1", Line: "r.example/app:1"}.Sealed()
	require.NoError(t, s.conn.PublishEvent(t.Context(), "harbor", r))

	all, err := submit.Summaries(t.Context(), s.connect())
	require.NoError(t, err)
	require.Len(t, all, 3)
	for i := range all[:2] {
		require.NotZero(t, all[i].CreatedAt)
		require.NotZero(t, all[i].UpdatedAt)
		all[i].CreatedAt, all[i].UpdatedAt = time.Time{}, time.Time{}
	}
	require.Equal(t, []submit.Summary{
		{Batch: "first", Total: 2, Accepted: 2, Published: true, Finished: true},
		{Batch: "another", Total: 1, Accepted: 1, Published: true, Cancelled: true},
		{Batch: "pushed", Published: true, Waiting: 1},
	}, all)
}

func TestFind(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	for _, id := range []string{"nightly", "No Name", "a.b", ""} {
		_, err := submit.Find(t.Context(), conn, id)
		require.ErrorIs(t, err, submit.ErrNoBatch, id)
	}
}
