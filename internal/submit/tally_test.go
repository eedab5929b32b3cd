package submit

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// newTestTally is a tally that is closed with the test.
func newTestTally(t *testing.T) *tally {
	t.Helper()
	tally := newTally()
	t.Cleanup(func() { require.NoError(t, tally.Close()) })
	return tally
}

// told adds outcomes and returns how many were new.
func told(t *testing.T, tally *tally, outcomes ...queue.Outcome) (fresh int) {
	t.Helper()
	for _, o := range outcomes {
		isNew, err := tally.add(o)
		require.NoError(t, err)
		if isNew {
			fresh++
		}
	}
	return fresh
}

// listed are the failures of a tally, in the order of the list.
func listed(t *testing.T, tally *tally) (lines []string) {
	t.Helper()
	require.NoError(t, tally.failures(func(line []byte) error {
		var f Failure
		require.NoError(t, json.Unmarshal(line, &f))
		lines = append(lines, string(f.Line))
		return nil
	}))
	return lines
}

// ended is an outcome of the request on a line of the list, or of one without a place.
func ended(seq, gen int, verdict queue.Verdict) queue.Outcome {
	name := "line " + strconv.Itoa(seq)
	return queue.Outcome{ID: name, Gen: gen, Seq: seq, Line: queue.Text(name), Verdict: verdict, Error: "why"}
}

// astray is an outcome without its place.
func astray(o queue.Outcome) queue.Outcome {
	o.Seq, o.Line = 0, ""
	return o
}

func TestTallyCountsOnce(t *testing.T) {
	t.Parallel()
	tally := newTestTally(t)
	verdicts := map[int]queue.Verdict{
		1: queue.Signed, 64: queue.AlreadySigned, 65: queue.Skipped,
		2 * pageSize: queue.Dead, 2*pageSize - 1: queue.Cancelled, 200: "bewitched",
	}
	for seq, verdict := range verdicts {
		require.Equal(t, 1, told(t, tally, ended(seq, 0, verdict), ended(seq, 0, verdict)), "outcomes may come twice")
	}
	require.Equal(t, Tally{Signed: 1, AlreadySigned: 1, Skipped: 1, Dead: 2, Cancelled: 1}, tally.counts(), "a word that is not known is no success")
	require.Equal(t, 6, tally.counts().Done())
	for seq := range verdicts {
		require.True(t, tally.known(seq, "line "+strconv.Itoa(seq)))
		require.False(t, tally.known(seq+1000, "another"))
	}
	require.Equal(t, []string{"line 200", "line 8191", "line 8192"}, listed(t, tally))
}

// What a stranger writes cannot make it hold what it likes, or break it.
func TestTallyOfNonsense(t *testing.T) {
	t.Parallel()
	tally := newTestTally(t)
	require.Zero(t, told(t, tally, ended(maxSeq+1, 0, queue.Signed), ended(-1, 0, queue.Signed), ended(1, -1, queue.Signed), ended(1, maxGen+1, queue.Signed)))
	tally.note(0, []string{"line 1"})
	tally.note(-1, []string{"line 1"})
	tally.note(maxGen+1, []string{"line 1"})
	require.Equal(t, 1, told(t, tally, ended(maxSeq, maxGen, queue.Dead)))
	require.Equal(t, []string{"line " + strconv.Itoa(maxSeq)}, listed(t, tally))
	gen, due := tally.due(1, "line 1")
	require.True(t, due)
	require.Zero(t, gen)
}

func TestTallyGoesByTheHighestGeneration(t *testing.T) {
	t.Parallel()
	tally := newTestTally(t)
	told(t, tally, ended(1, 0, queue.Dead), ended(2, 0, queue.Dead), ended(3, 0, queue.Cancelled), ended(4, 1, queue.Signed))
	require.Equal(t, Tally{Signed: 1, Dead: 2, Cancelled: 1}, tally.counts())
	told(t, tally, ended(1, 1, queue.Signed), ended(2, 1, queue.Dead), ended(2, 2, queue.Cancelled))
	require.Zero(t, told(t, tally, ended(2, 1, queue.Dead), ended(1, 0, queue.Dead), ended(4, 0, queue.Dead)), "those of earlier generations come again")
	require.Equal(t, Tally{Signed: 2, Cancelled: 2}, tally.counts())
	require.Equal(t, []string{"line 2", "line 3"}, listed(t, tally))
}

// Whether the note of a retry is read before the outcomes or after makes no difference.
func TestTallyOfNotedRetries(t *testing.T) {
	t.Parallel()
	for name, tell := range map[string]func(notes, outcomes func()){
		"notes first":    func(notes, outcomes func()) { notes(); outcomes() },
		"outcomes first": func(notes, outcomes func()) { outcomes(); notes() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tally := newTestTally(t)
			tell(func() {
				tally.note(1, []string{"line 1", "line 2", "line 5"})
				tally.note(2, []string{"line 2"})
				require.NoError(t, tally.reconcile())
			}, func() {
				told(t, tally, ended(1, 0, queue.Dead), ended(2, 0, queue.Dead), ended(2, 1, queue.Dead), ended(3, 0, queue.Dead), astray(ended(5, 0, queue.Dead)))
			})
			require.Equal(t, Tally{Dead: 1}, tally.counts())
			require.Equal(t, []string{"line 3"}, listed(t, tally))
			require.Equal(t, 3, tally.asked())
			for seq, want := range map[int]int{1: 1, 2: 2, 5: 1} {
				gen, due := tally.due(seq, "line "+strconv.Itoa(seq))
				require.True(t, due)
				require.Equal(t, want, gen)
			}
			told(t, tally, ended(1, 1, queue.Signed), ended(2, 2, queue.Dead), astray(ended(5, 1, queue.Signed)))
			require.Equal(t, Tally{Signed: 2, Dead: 2}, tally.counts())
			require.Equal(t, []string{"line 2", "line 3"}, listed(t, tally))
			require.Zero(t, tally.asked())
		})
	}
}

// The outcome of a message that could not be read has only an id; the other
// generations of the request say where it belongs.
func TestTallyOfStrays(t *testing.T) {
	t.Parallel()
	tally := newTestTally(t)
	told(t, tally, astray(ended(1, 0, queue.Dead)), ended(2, 0, queue.Dead), ended(3, 0, queue.Cancelled))
	require.Equal(t, 1, tally.placeless())
	require.True(t, tally.known(1, "line 1"))
	told(t, tally, ended(1, 1, queue.Signed), astray(ended(2, 1, queue.Dead)), astray(ended(3, 1, queue.Signed)))
	require.NoError(t, tally.reconcile())
	require.Zero(t, tally.placeless())
	require.Equal(t, Tally{Signed: 2, Dead: 1}, tally.counts())
	require.Equal(t, []string{""}, listed(t, tally), "that of the second, which has no line")
}

func TestSpool(t *testing.T) {
	t.Parallel()
	var s spool
	require.NoError(t, s.each(func(int64, []byte) error { return errEnough }), "an empty one")
	want := []string{"short", string(make([]byte, 200_000)), "", "last"}
	offsets := make([]int64, len(want))
	var err error
	for i, record := range want {
		offsets[i], err = s.append(record)
		require.NoError(t, err)
	}
	for i, offset := range offsets {
		line, err := s.line(offset)
		require.NoError(t, err)
		var got string
		require.NoError(t, json.Unmarshal(line, &got))
		require.Equal(t, want[i], got)
	}
	n := 0
	require.NoError(t, s.each(func(offset int64, line []byte) error {
		var got string
		require.NoError(t, json.Unmarshal(line, &got))
		require.Equal(t, want[n], got)
		require.Equal(t, offsets[n], offset)
		n++
		return nil
	}))
	require.Equal(t, len(want), n)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
}
