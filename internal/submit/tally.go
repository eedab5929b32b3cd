package submit

import (
	"maps"
	"slices"
	"sync"

	"github.com/signfleet/signfleet/internal/queue"
)

// Tally counts requests by how they ended.
type Tally struct {
	Signed        int `json:"signed"`
	AlreadySigned int `json:"already_signed"`
	Skipped       int `json:"skipped"`
	Dead          int `json:"dead"`
	Cancelled     int `json:"cancelled"`
}

// Done is how many requests have ended.
func (t Tally) Done() int { return t.Signed + t.AlreadySigned + t.Skipped + t.Failed() }

// Failed is how many requests belong on the failed list.
func (t Tally) Failed() int { return t.Dead + t.Cancelled }

// maxSeq bounds what an outcome can make the tally hold: 16 MiB of bits.
const maxSeq = 1 << 27

// tally keeps what the outcomes of a batch add up to: a bit for each request,
// and what is known of those that failed. It is safe for use by several goroutines.
type tally struct {
	mu     sync.Mutex
	done   []uint64 // a bit for each seq
	failed map[int]Failure
	sum    Tally
}

func newTally() *tally { return &tally{failed: make(map[int]Failure)} }

// add counts an outcome, once however often it comes.
func (t *tally) add(o queue.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.Seq < 1 || o.Seq > maxSeq || t.hasLocked(o.Seq) {
		return
	}
	for len(t.done) <= o.Seq/64 {
		t.done = append(t.done, 0)
	}
	t.done[o.Seq/64] |= 1 << (o.Seq % 64)
	switch o.Verdict {
	case queue.Signed:
		t.sum.Signed++
	case queue.AlreadySigned:
		t.sum.AlreadySigned++
	case queue.Skipped:
		t.sum.Skipped++
	case queue.Cancelled:
		t.sum.Cancelled++
		t.failed[o.Seq] = failureOf(o)
	default: // dead, or a word that is not known here: nothing to rely on
		t.sum.Dead++
		t.failed[o.Seq] = failureOf(o)
	}
}

func (t *tally) has(seq int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hasLocked(seq)
}

func (t *tally) hasLocked(seq int) bool {
	return seq/64 < len(t.done) && t.done[seq/64]&(1<<(seq%64)) != 0
}

func (t *tally) failure(seq int) (Failure, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.failed[seq]
	return f, ok
}

// failures are all of them, in the order of the list.
func (t *tally) failures() []Failure {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Failure, 0, len(t.failed))
	for _, seq := range slices.Sorted(maps.Keys(t.failed)) {
		all = append(all, t.failed[seq])
	}
	return all
}

func (t *tally) counts() Tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum
}
