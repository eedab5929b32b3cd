package submit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

func TestSubmission(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	list := writeList(t,
		"# a comment",
		"r.example/team/one:1",
		"r.example/team/two:1   ", // the blanks are its author's
		"",
		"not a reference at all!",
		"r.example/team/one:1", // again
		"src.example/x:1 r.example/team/three 1",
		"r.example/team/four:\xff",
		"r.example/team/five:1 # why",
		"not a reference at all!",
	)
	var bad []int
	var most submit.Progress
	o := optionsFor(list)
	o.OnBadLine = func(e *imagelist.LineError) { bad = append(bad, e.Number) }
	o.OnProgress = func(p submit.Progress) { most = p }
	s := open(t, conn, o)
	require.NoError(t, s.BadLines())
	require.Equal(t, []int{5, 8, 10}, bad)

	w := serve(t, conn, func(r queue.Request) queue.Outcome {
		switch r.Reference {
		case "r.example/team/two:1":
			return queue.Outcome{Verdict: queue.Dead, Class: "denied", Error: "403", Attempts: 1}
		case "r.example/team/three:1":
			return queue.Outcome{Verdict: queue.Skipped}
		case "r.example/team/five:1":
			return queue.Outcome{Verdict: queue.Cancelled}
		}
		return endsBad(r)
	})
	require.NoError(t, s.Run(t.Context()))
	require.Equal(t, map[int]int{1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}, w.stop(t), "each once, duplicates once")
	require.Equal(t, 6, most.Total)
	require.Equal(t, 6, most.Done())

	report := reportOf(t, s)
	require.Equal(t, submit.Tally{Signed: 1, Skipped: 1, Dead: 3, Cancelled: 1}, report.Tally)
	require.Zero(t, report.NotDone)
	failed := filepath.Join(t.TempDir(), "failed.txt")
	require.NoError(t, submit.WriteFailed(failed, report))
	text, err := os.ReadFile(failed)
	require.NoError(t, err)
	require.Equal(t, "r.example/team/two:1   \nnot a reference at all!\nr.example/team/four:\xff\nr.example/team/five:1 # why\n", string(text))

	data, err := os.ReadFile(strings.TrimSuffix(failed, ".txt") + ".json")
	require.NoError(t, err)
	var details struct {
		Batch  string           `json:"batch"`
		Failed []submit.Failure `json:"failed"`
	}
	require.NoError(t, json.Unmarshal(data, &details))
	require.Equal(t, s.Batch(), details.Batch)
	require.Len(t, details.Failed, 4)
	require.Equal(t, submit.Failure{
		Line: "r.example/team/two:1   ", Reference: "r.example/team/two:1", Verdict: "dead", Class: "denied", Reason: "403", Attempts: 1,
	}, details.Failed[0])
	require.Equal(t, "invalid-request", details.Failed[1].Class)
	require.NotEmpty(t, details.Failed[1].Reason)
	require.NotContains(t, details.Failed[1].Reason, "line 5", "numbers are of another list by then")
	require.Equal(t, "cancelled", details.Failed[3].Verdict)
	require.NotEmpty(t, details.Failed[3].Reason)

	require.NoError(t, s.Finish(t.Context()))
	b, err := conn.Batch(t.Context(), s.Batch())
	require.NoError(t, err)
	require.True(t, b.Finished)
	require.Equal(t, 6, b.Total)
}

func TestEmptyListIsDone(t *testing.T) {
	t.Parallel()
	s := open(t, newQueue(t), optionsFor(writeList(t, "# nothing", "")))
	require.NoError(t, s.Run(t.Context()))
	report := reportOf(t, s)
	require.Equal(t, &submit.Report{Batch: s.Batch()}, report)
}

// manyLines is a list of n images.
func manyLines(n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("r.example/app:%d", i+1)
	}
	return lines
}

func TestPublishingTwiceGivesEachRequestOnce(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	o := optionsFor(writeList(t, manyLines(50)...))
	o.Batch = "nightly"
	require.NoError(t, open(t, conn, o).Publish(t.Context()))
	// As if it was killed before it noted anything.
	b, err := conn.Batch(t.Context(), "nightly")
	require.NoError(t, err)
	b.Accepted, b.Total, b.Published = 0, 0, false
	require.NoError(t, conn.WriteBatch(t.Context(), b))

	w := serve(t, conn, nil)
	s := open(t, conn, o)
	require.NoError(t, s.Run(t.Context()))
	delivered := w.stop(t)
	require.Len(t, delivered, 50)
	for seq, times := range delivered {
		require.Equal(t, 1, times, "request %d", seq)
	}
}

func TestInterruptedPublishingGoesOn(t *testing.T) {
	t.Parallel()
	const lines = 3000 // more than may be without an answer at once
	conn := newQueue(t)
	o := optionsFor(writeList(t, manyLines(lines)...))
	o.Batch = "nightly"
	interrupted := open(t, conn, o)
	err := interrupted.Publish(newFuse(t.Context(), 1800))
	var partly *submit.PublishError
	require.ErrorAs(t, err, &partly)
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, partly.Accepted)
	require.Less(t, partly.Accepted, lines)
	require.Equal(t, interrupted.Progress().Published, partly.Accepted, "all that was sent is waited for")
	b, err := conn.Batch(t.Context(), "nightly")
	require.NoError(t, err)
	require.Equal(t, partly.Accepted, b.Accepted)
	require.False(t, b.Published)

	// All that was accepted is there, and nothing else.
	w := serve(t, conn, nil)
	progress := make(chan submit.Progress, lines)
	o.OnProgress = func(p submit.Progress) { progress <- p }
	s := open(t, conn, o)
	require.Equal(t, partly.Accepted, s.Progress().Published)
	require.NoError(t, s.Run(t.Context()))
	delivered := w.stop(t)
	require.Len(t, delivered, lines)
	for seq, times := range delivered {
		require.Equal(t, 1, times, "request %d", seq)
	}
	report := reportOf(t, s)
	require.Equal(t, lines, report.Signed)
	require.Equal(t, submit.Progress{Total: lines, Published: lines, Tally: report.Tally}, s.Progress())
}

// What the server accepted is not published again: outside its duplicate window
// the server would take it.
func TestWhatWasAcceptedIsNotPublishedAgain(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	o := optionsFor(writeList(t, manyLines(10)...))
	o.Batch = "nightly"
	b, err := conn.Batch(t.Context(), open(t, conn, o).Batch())
	require.NoError(t, err)
	b.Accepted = 4
	require.NoError(t, conn.WriteBatch(t.Context(), b))
	require.NoError(t, open(t, conn, o).Publish(t.Context()))
	last := make(chan struct{})
	w := serve(t, conn, func(r queue.Request) queue.Outcome {
		if r.Seq == 10 {
			close(last)
		}
		return queue.Outcome{Verdict: queue.Signed}
	})
	<-last
	require.Equal(t, map[int]int{5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1}, w.stop(t))
}

// Nor is what has ended, though it was accepted without our knowing.
func TestWhatHasEndedIsNotPublishedAgain(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	o := optionsFor(writeList(t, manyLines(10)...))
	o.Batch = "nightly"
	open(t, conn, o)
	for seq, line := range manyLines(6) {
		r := queue.Request{Batch: "nightly", Seq: seq + 1, Line: queue.Text(line), Reference: line, Platforms: o.Platforms}.Sealed()
		_, err := conn.Record(t.Context(), outcomeOf(r, queue.AlreadySigned))
		require.NoError(t, err)
	}
	w := serve(t, conn, nil)
	s := open(t, conn, o)
	require.NoError(t, s.Run(t.Context()))
	require.Equal(t, map[int]int{7: 1, 8: 1, 9: 1, 10: 1}, w.stop(t))
	require.Equal(t, submit.Tally{Signed: 4, AlreadySigned: 6}, s.Progress().Tally)
}

func TestInterruptedFollowing(t *testing.T) {
	t.Parallel()
	const lines, before = 30, 10
	conn := newQueue(t)
	list := writeList(t, manyLines(lines)...)
	o := optionsFor(list)
	o.Batch = "nightly"
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var hold sync.Mutex // lets the stub end no more than it may
	ended := 0
	w := serve(t, conn, func(r queue.Request) queue.Outcome {
		hold.Lock()
		defer hold.Unlock()
		if ended++; ended > before {
			<-ctx.Done()
			return queue.Outcome{Verdict: queue.Dead, Class: "denied", Error: "late"}
		}
		return queue.Outcome{Verdict: queue.Signed}
	})
	o.OnProgress = func(p submit.Progress) {
		if p.Done() == before {
			interrupt()
		}
	}
	s := open(t, conn, o)
	require.ErrorIs(t, s.Run(ctx), context.Canceled)
	w.stop(t)

	report := reportOf(t, s)
	require.Equal(t, before, report.Signed)
	require.Equal(t, lines-report.Done(), report.NotDone)
	require.Equal(t, report.NotDone+report.Failed(), report.Listed)
	next := 0
	for _, f := range failuresOf(t, report) {
		var n int
		_, err := fmt.Sscanf(string(f.Line), "r.example/app:%d", &n)
		require.NoError(t, err)
		require.Greater(t, n, next, "in the order of the list")
		next = n
		require.NotEmpty(t, f.Reason)
		require.Contains(t, []string{"dead", "not-done"}, f.Verdict)
	}
	found, err := submit.Unfinished(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, "nightly", found)

	serve(t, conn, nil)
	o.OnProgress = nil
	o.Resume = true
	s = open(t, conn, o)
	require.NoError(t, s.Run(t.Context()))
	again := reportOf(t, s)
	require.Zero(t, again.NotDone)
	require.Equal(t, lines, again.Done())
	require.Equal(t, report.Dead, again.Dead)
	require.NoError(t, s.Finish(t.Context()))
}

func TestBatchOfAnotherList(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	o := optionsFor(writeList(t, "r.example/app:1"))
	o.Batch, o.Keys, o.Format = "nightly", []string{"sha256:k"}, "tag"
	open(t, conn, o)
	same := o
	same.Timeout *= 2 // decides nothing about what is asked for
	open(t, conn, same)
	for name, change := range map[string]func(*submit.Options){
		"list":      func(o *submit.Options) { o.File = writeList(t, "r.example/app:2") },
		"registry":  func(o *submit.Options) { o.List.Registry = "other.example" },
		"project":   func(o *submit.Options) { o.List.Project = "other" },
		"platforms": func(o *submit.Options) { o.Platforms = nil },
		"keys":      func(o *submit.Options) { o.Keys = nil },
		"format":    func(o *submit.Options) { o.Format = "referrer" },

		"annotations": func(o *submit.Options) { o.Signing.Annotations = []string{"team=a"} },
		"identities":  func(o *submit.Options) { o.Signing.Identities = []string{"r.example=docker.io"} },
		"replaced":    func(o *submit.Options) { o.Signing.Replaced = []string{"sha256:old"} },
		"timestamps":  func(o *submit.Options) { o.Signing.Timestamps = true },
		"index":       func(o *submit.Options) { o.Signing.SkipIndex = true },
		"recursive":   func(o *submit.Options) { o.Signing.Recursive = true },
	} {
		other := o
		change(&other)
		_, err := submit.Open(t.Context(), conn, other)
		require.ErrorIs(t, err, submit.ErrOtherList, name)
		require.ErrorContains(t, err, "nightly")
	}
	o.Batch, o.Resume = "weekly", true
	_, err := submit.Open(t.Context(), conn, o)
	require.ErrorContains(t, err, "weekly")
	_, err = conn.Batch(t.Context(), "weekly")
	require.ErrorIs(t, err, queue.ErrNone, "nothing is left behind")
}

func TestListChangedMeanwhile(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	t.Run("before all is published", func(t *testing.T) {
		t.Parallel()
		list := writeList(t, manyLines(3)...)
		s := open(t, conn, optionsFor(list))
		require.NoError(t, os.WriteFile(list, []byte("r.example/other:1\n"), 0o600))
		err := s.Run(t.Context())
		require.ErrorIs(t, err, submit.ErrListChanged)
		b, err := conn.Batch(t.Context(), s.Batch())
		require.NoError(t, err)
		require.False(t, b.Published)
		_, err = s.Report(t.Context())
		require.ErrorIs(t, err, submit.ErrListChanged)
	})
	for name, change := range map[string]func(string) error{
		"changed": func(list string) error { return os.WriteFile(list, []byte("r.example/other:1\n"), 0o600) },
		"removed": os.Remove,
	} {
		t.Run(name+" before the report", func(t *testing.T) {
			t.Parallel()
			conn := newQueue(t)
			list := writeList(t, manyLines(20)...)
			serve(t, conn, func(r queue.Request) queue.Outcome {
				if r.Seq%2 == 0 {
					return queue.Outcome{Verdict: queue.Dead, Class: "denied", Error: "403"}
				}
				return queue.Outcome{Verdict: queue.Signed}
			})
			s := open(t, conn, optionsFor(list))
			require.NoError(t, s.Run(t.Context()))
			require.NoError(t, change(list))
			report := reportOf(t, s)
			require.Equal(t, 10, report.Listed)
			for i, f := range failuresOf(t, report) {
				require.Equal(t, queue.Text(fmt.Sprintf("r.example/app:%d", 2*(i+1))), f.Line)
			}
		})
	}
}

func TestUnfinished(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	list := writeList(t, "r.example/app:1")
	unfinished := func() string {
		t.Helper()
		id, err := submit.Unfinished(t.Context(), conn)
		require.NoError(t, err)
		return id
	}
	require.Empty(t, unfinished())
	s := open(t, conn, optionsFor(list))
	require.Equal(t, s.Batch(), unfinished())
	require.NoError(t, s.Finish(t.Context()))
	require.Empty(t, unfinished())
	require.NotEqual(t, s.Batch(), open(t, conn, optionsFor(list)).Batch())
	require.NotEmpty(t, unfinished())
}

func TestFailureOfTheQueueIsToldWithTheCount(t *testing.T) {
	t.Parallel()
	conn := newQueue(t)
	s := open(t, conn, optionsFor(writeList(t, manyLines(5)...)))
	conn.Close()
	err := s.Publish(t.Context())
	var partly *submit.PublishError
	require.ErrorAs(t, err, &partly)
	require.Equal(t, s.Batch(), partly.Batch)
	require.Zero(t, partly.Accepted)
}

func TestOptionsValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, optionsFor("images.txt").Validate())
	for name, spoil := range map[string]func(*submit.Options){
		"file":     func(o *submit.Options) { o.File = "" },
		"timeout":  func(o *submit.Options) { o.Timeout = 0 },
		"batch":    func(o *submit.Options) { o.Batch = "Nightly" },
		"resume":   func(o *submit.Options) { o.Resume = true },
		"registry": func(o *submit.Options) { o.List.Registry = "https://r.example" },
	} {
		o := optionsFor("images.txt")
		spoil(&o)
		require.ErrorContains(t, o.Validate(), name)
		_, err := submit.Open(t.Context(), nil, o)
		require.Error(t, err)
	}
	_, err := submit.Open(t.Context(), nil, optionsFor(filepath.Join(t.TempDir(), "none")))
	require.True(t, errors.Is(err, os.ErrNotExist))
}
