package submit_test

import (
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

// everyOther ends requests with an odd seq and an even one differently.
func everyOther(odd, even func(queue.Request) queue.Outcome) func(queue.Request) queue.Outcome {
	return func(r queue.Request) queue.Outcome {
		if r.Seq%2 == 1 {
			return odd(r)
		}
		return even(r)
	}
}

func retried(t *testing.T, b *submit.Batch, class string) submit.Retried {
	t.Helper()
	r, err := b.Retry(t.Context(), class)
	require.NoError(t, err)
	return r
}

func TestRetryOfAClass(t *testing.T) {
	t.Parallel()
	s := newService(t)
	w := serve(t, s.conn, everyOther(ends(timesOut, signs), ends(isDenied)))
	o := submitted(t, s, "nightly", 10)
	b := s.find(t, "nightly")
	require.NoError(t, b.Finish(t.Context()))
	require.Equal(t, 10, reportOf(t, b).Failed())

	require.Equal(t, submit.Retried{Batch: "nightly"}, retried(t, b, "network"), "none has failed so")
	require.Equal(t, submit.Retried{Batch: "nightly", Gen: 1, Requests: 5}, retried(t, b, "timeout"))
	record, err := s.conn.Batch(t.Context(), "nightly")
	require.NoError(t, err)
	require.False(t, record.Finished)
	require.NoError(t, b.Wait(t.Context(), nil))
	report := reportOf(t, b)
	require.Equal(t, submit.Tally{Signed: 5, Dead: 5}, report.Tally)
	require.Zero(t, report.NotDone)
	require.Equal(t, []queue.Text{"r.example/app:2", "r.example/app:4", "r.example/app:6", "r.example/app:8", "r.example/app:10"}, linesOf(t, report))

	// A submission that goes on sees the same.
	o.Resume = true
	again := open(t, s.conn, o)
	require.NoError(t, again.Run(t.Context()))
	require.Equal(t, failuresOf(t, report), failuresOf(t, reportOf(t, again)))
	delivered := w.stop(t)
	for seq := 1; seq <= 10; seq++ {
		require.Equal(t, 1+seq%2, delivered[seq], "request %d", seq)
	}
}

// What is asked for already is not asked for twice; what failed once more is.
func TestRetryTwice(t *testing.T) {
	t.Parallel()
	s := newService(t)
	worker := serve(t, s.conn, ends(timesOut))
	submitted(t, s, "nightly", 3)
	worker.stop(t)
	b := s.find(t, "nightly")
	require.Equal(t, 3, retried(t, b, "").Requests)
	require.Equal(t, submit.Retried{Batch: "nightly"}, retried(t, s.find(t, "nightly"), ""))
	status, err := b.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, status.Pending)
	require.Equal(t, 3, status.Waiting)
	require.Zero(t, status.Failed(), "pending is not failed")
	require.Zero(t, reportOf(t, b).Listed)

	worker = serve(t, s.conn, ends(timesOut, timesOut, signs))
	require.NoError(t, b.Wait(t.Context(), nil))
	require.Equal(t, 3, reportOf(t, b).Dead)
	require.Equal(t, submit.Retried{Batch: "nightly", Gen: 2, Requests: 3}, retried(t, b, ""))
	require.NoError(t, b.Wait(t.Context(), nil))
	require.Equal(t, submit.Tally{Signed: 3}, reportOf(t, b).Tally)
	require.Equal(t, map[int]int{1: 2, 2: 2, 3: 2}, worker.stop(t))

	status, err = b.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Generations, 2)
	for i, g := range status.Generations {
		require.Equal(t, i+1, g.Gen)
		require.Equal(t, 3, g.Requests)
		require.NotZero(t, g.At)
	}
}

// Two who ask for the same at once make one new generation of it.
func TestTwoRetriesAtOnce(t *testing.T) {
	t.Parallel()
	s := newService(t)
	worker := serve(t, s.conn, ends(timesOut))
	submitted(t, s, "nightly", 20)
	worker.stop(t)
	errs := make(chan error)
	for range 4 {
		b := s.find(t, "nightly")
		go func() {
			_, err := b.Retry(t.Context(), "")
			errs <- err
		}()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
	worker = serve(t, s.conn, func(r queue.Request) queue.Outcome {
		if r.Gen != 1 {
			return isDenied
		}
		return signs
	})
	b := s.find(t, "nightly")
	require.NoError(t, b.Wait(t.Context(), nil))
	require.Equal(t, submit.Tally{Signed: 20}, reportOf(t, b).Tally)
	for seq, times := range worker.stop(t) {
		require.Equal(t, 1, times, "request %d", seq)
	}
}

// notedOnly leaves behind what a retry leaves that dies before it publishes.
func notedOnly(t *testing.T, s *service, batch string, gen int, seqs ...int) {
	t.Helper()
	var ids []string
	require.NoError(t, s.conn.Outcomes(t.Context(), batch, func(o queue.Outcome) error {
		for _, seq := range seqs {
			if o.Seq == seq {
				ids = append(ids, o.ID)
			}
		}
		return nil
	}))
	require.NoError(t, s.conn.NoteRetry(t.Context(), queue.RetryNote{Batch: batch, Gen: gen, IDs: ids, At: time.Now()}))
}

func TestRetryThatWasNotedAndNotPublished(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(t *testing.T, s *service, o submit.Options, b *submit.Batch){
		"is published by the next retry": func(t *testing.T, _ *service, _ submit.Options, b *submit.Batch) {
			require.Equal(t, submit.Retried{Batch: "nightly", Gen: 1, Requests: 2, Again: 2}, retried(t, b, ""))
			require.NoError(t, b.Wait(t.Context(), nil))
			require.Equal(t, submit.Tally{Signed: 4}, reportOf(t, b).Tally)
		},
		"is published by whoever waits": func(t *testing.T, _ *service, _ submit.Options, b *submit.Batch) {
			require.NoError(t, b.Wait(t.Context(), nil))
			require.Equal(t, submit.Tally{Signed: 2, Dead: 2}, reportOf(t, b).Tally)
		},
		"is published by the submission": func(t *testing.T, s *service, o submit.Options, b *submit.Batch) {
			o.Resume, o.CheckEvery = true, 50*time.Millisecond
			again := open(t, s.conn, o)
			require.NoError(t, again.Run(t.Context()))
			require.Equal(t, submit.Tally{Signed: 2, Dead: 2}, again.Progress().Tally)
			require.Equal(t, linesOf(t, reportOf(t, b)), linesOf(t, reportOf(t, again)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			serve(t, s.conn, ends(timesOut, signs))
			o := submitted(t, s, "nightly", 4)
			notedOnly(t, s, "nightly", 1, 1, 3)
			b := s.find(t, "nightly")
			status, err := b.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2, status.Dead)
			require.Equal(t, 2, status.Pending)
			mend(t, s, o, b)
		})
	}
}

// What was asked for last is published, also where the server has lost the
// generation before it.
func TestRetryThatIsPublishedAgainHasItsGeneration(t *testing.T) {
	t.Parallel()
	s := newService(t)
	serve(t, s.conn, ends(timesOut, timesOut, signs))
	submitted(t, s, "nightly", 2)
	notedOnly(t, s, "nightly", 2, 1, 2)
	b := s.find(t, "nightly")
	require.Equal(t, submit.Retried{Batch: "nightly", Gen: 2, Again: 2}, retried(t, b, ""))
	require.NoError(t, b.Wait(t.Context(), nil))
	require.Equal(t, submit.Tally{Signed: 2}, reportOf(t, b).Tally)
}

// The outcome of a retry that nobody can read is its last one all the same.
func TestRetryWhoseOutcomeCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newService(t)
	worker := serve(t, s.conn, ends(timesOut))
	submitted(t, s, "nightly", 2)
	worker.stop(t)
	b := s.find(t, "nightly")
	require.Equal(t, 2, retried(t, b, "").Requests)
	var id string
	require.NoError(t, s.conn.Outcomes(t.Context(), "nightly", func(o queue.Outcome) error {
		id = o.ID
		return nil
	}))
	s.store("sign.outcome.nightly."+id+".1", []byte("nonsense"))
	serve(t, s.conn, ends(timesOut, signs))
	require.NoError(t, b.Wait(t.Context(), nil))
}

func TestRetryOfACancelledBatch(t *testing.T) {
	t.Parallel()
	s := newService(t)
	worker := serve(t, s.conn, func(r queue.Request) queue.Outcome {
		mark, ok, err := s.conn.Cancelled(t.Context(), r.Batch)
		if err == nil && ok && mark.Covers(r.Gen) {
			return queue.Outcome{Verdict: queue.Cancelled}
		}
		return signs
	})
	o := optionsFor(writeList(t, "r.example/app:1", "r.example/caf\xe9:1", "r.example/app:3"))
	o.Batch = "nightly"
	submission := open(t, s.conn, o)
	b := s.find(t, "nightly")
	require.NoError(t, b.Cancel(t.Context()))
	require.NoError(t, submission.Run(t.Context()))
	require.Equal(t, submit.Tally{Cancelled: 3}, reportOf(t, b).Tally)
	status, err := b.Status(t.Context())
	require.NoError(t, err)
	require.NotNil(t, status.Cancelled)

	require.Equal(t, submit.Retried{Batch: "nightly"}, retried(t, b, "timeout"), "it has no class")
	require.Equal(t, submit.Retried{Batch: "nightly", Gen: 1, Requests: 3}, retried(t, b, ""))
	require.NoError(t, b.Wait(t.Context(), nil))
	require.Equal(t, submit.Tally{Signed: 3}, reportOf(t, b).Tally)
	worker.stop(t)
}

// Cancelling covers the retries asked for until then.
func TestCancelCoversRetries(t *testing.T) {
	t.Parallel()
	s := newService(t)
	worker := serve(t, s.conn, ends(timesOut))
	submitted(t, s, "nightly", 2)
	worker.stop(t)
	b := s.find(t, "nightly")
	require.Equal(t, 2, retried(t, b, "").Requests)
	require.NoError(t, b.Cancel(t.Context()))
	mark, ok, err := s.conn.Cancelled(t.Context(), "nightly")
	require.NoError(t, err)
	require.True(t, ok)
	require.True(t, mark.Covers(1))
	require.False(t, mark.Covers(2))
}

// A batch that an event source began has no record and no seqs.
func TestBatchWithoutARecord(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var lines []queue.Text
	for i := range 6 {
		line := "r.example/pushed:" + strconv.Itoa(i)
		r := queue.Request{Batch: "harbor-2026-11", Line: queue.Text(line), Reference: line, Timeout: queue.Seconds(time.Minute)}
		require.NoError(t, s.conn.PublishEvent(t.Context(), "harbor", r.Sealed()))
		lines = append(lines, queue.Text(line))
	}
	worker := serveLane(t, s.conn, s.conn.EventLane, ends(timesOut))
	b := s.find(t, "harbor-2026-11")
	require.NoError(t, b.Wait(t.Context(), nil))
	report := reportOf(t, b)
	require.Equal(t, 6, report.Dead)
	require.Zero(t, report.NotDone)
	require.ElementsMatch(t, lines, linesOf(t, report))
	worker.stop(t)

	serve(t, s.conn, ends(timesOut, signs))
	require.Equal(t, submit.Retried{Batch: "harbor-2026-11", Gen: 1, Requests: 6}, retried(t, b, ""))
	require.NoError(t, b.Wait(t.Context(), nil))
	require.NoError(t, b.Finish(t.Context()))
	status, err := b.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, submit.Tally{Signed: 6}, status.Tally)
	require.Zero(t, status.Pending)
	_, err = s.conn.Batch(t.Context(), "harbor-2026-11")
	require.ErrorIs(t, err, queue.ErrNone)
}

// A message that nobody could read is no request: there is nothing to ask again.
func TestRetryLeavesWhatCannotBeAskedAgain(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var first atomic.Bool
	serve(t, s.conn, func(r queue.Request) queue.Outcome {
		if !first.CompareAndSwap(false, true) {
			return timesOut
		}
		o := queue.Outcome{ID: r.ID, Batch: r.Batch, Verdict: queue.Dead, Class: "invalid-request", Error: "unreadable", Worker: "stub"}
		_, err := s.conn.Record(t.Context(), o)
		letter := queue.DeadLetter{Request: queue.Request{ID: r.ID, Batch: r.Batch}, Body: []byte("?"), Class: o.Class, Error: o.Error}
		require.NoError(t, errors.Join(err, s.conn.Bury(t.Context(), letter)))
		return timesOut // refused: there is one
	})
	submitted(t, s, "nightly", 3)
	require.Equal(t, submit.Retried{Batch: "nightly", Gen: 1, Requests: 2, Left: 1}, retried(t, s.find(t, "nightly"), ""))
}

func TestRetryAfterCancelRunsForAll(t *testing.T) {
	t.Parallel()
	s := newService(t)
	serve(t, s.conn, func(r queue.Request) queue.Outcome {
		mark, cancelled, err := s.conn.Cancelled(t.Context(), r.Batch)
		switch {
		case err == nil && cancelled && mark.Covers(r.Gen):
			return queue.Outcome{Verdict: queue.Cancelled}
		case cancelled:
			return signs
		case r.Seq == 1:
			return isDenied
		}
		return timesOut
	})
	submitted(t, s, "nightly", 2)
	b := s.find(t, "nightly")
	for range 2 { // of the first line only: it is ahead of the other
		require.Equal(t, 1, retried(t, b, "denied").Requests)
		require.NoError(t, b.Wait(t.Context(), nil))
	}
	require.NoError(t, b.Cancel(t.Context()))
	require.Equal(t, 2, retried(t, b, "").Requests)
	require.NoError(t, b.Wait(t.Context(), nil))
	require.Equal(t, submit.Tally{Signed: 2}, reportOf(t, b).Tally)
}

// A report that is written while a retry begins does not close the batch.
func TestFinishBehindARetry(t *testing.T) {
	t.Parallel()
	s := newService(t)
	w := serve(t, s.conn, ends(timesOut))
	submitted(t, s, "nightly", 2)
	waiter := s.find(t, "nightly")
	require.NoError(t, waiter.Wait(t.Context(), nil))
	w.stop(t)
	require.Equal(t, 2, retried(t, s.find(t, "nightly"), "").Requests)
	require.NoError(t, waiter.Finish(t.Context()))
	record, err := s.conn.Batch(t.Context(), "nightly")
	require.NoError(t, err)
	require.False(t, record.Finished, "two requests are in the queue")
}
