package submit

import "github.com/signfleet/signfleet/internal/queue"

// state is how a request stands, in two bytes: the verdict in the lowest three
// bits, whether it is asked for once more in the next, and above them the
// generation that ended so. Zero is a request without an outcome.
type state uint16

const (
	signed state = 1 + iota
	alreadySigned
	skipped
	dead
	cancelled

	verdictBits state = 1<<3 - 1
	askedAgain  state = 1 << 3
	genShift          = 4
)

// stateOf is the state of a request after an outcome that nothing follows.
func stateOf(o queue.Outcome) state {
	verdict := dead // also for a word that is not known here: nothing to rely on
	switch o.Verdict {
	case queue.Signed:
		verdict = signed
	case queue.AlreadySigned:
		verdict = alreadySigned
	case queue.Skipped:
		verdict = skipped
	case queue.Cancelled:
		verdict = cancelled
	}
	return verdict | state(o.Gen)<<genShift //nolint:gosec // G115: at most maxGen
}

func (s state) gen() int      { return int(s >> genShift) }
func (s state) ended() bool   { return s&verdictBits != 0 }
func (s state) pending() bool { return s&askedAgain != 0 }
func (s state) failed() bool  { return s&verdictBits == dead || s&verdictBits == cancelled }

// standing is a state and, of a failure, where in the spool its outcome is.
type standing struct {
	state
	offset int64
}

// pageSize is how many requests, next to each other in the list, are kept together.
const pageSize = 4096

// page is the part of a tally that one stretch of the list needs.
type page struct {
	states  [pageSize]state
	offsets *[pageSize]int64 // nil while none has failed
}

// get is how a request stands: by its seq, or without one by its key.
func (t *tally) get(seq int, k key) standing {
	if seq == 0 {
		return t.strays[k]
	}
	if seq/pageSize >= len(t.pages) || t.pages[seq/pageSize] == nil {
		return standing{}
	}
	p, at := t.pages[seq/pageSize], seq%pageSize
	if p.offsets == nil {
		return standing{state: p.states[at]}
	}
	return standing{p.states[at], p.offsets[at]}
}

// put replaces how a request stands, and counts it so.
func (t *tally) put(seq int, k key, now standing) {
	t.count(t.get(seq, k).state, -1)
	t.count(now.state, +1)
	if seq == 0 {
		t.strays[k] = now
		return
	}
	for len(t.pages) <= seq/pageSize {
		t.pages = append(t.pages, nil)
	}
	if t.pages[seq/pageSize] == nil {
		t.pages[seq/pageSize] = new(page)
	}
	p, at := t.pages[seq/pageSize], seq%pageSize
	p.states[at] = now.state
	if now.failed() && p.offsets == nil {
		p.offsets = new([pageSize]int64)
	}
	if p.offsets != nil {
		p.offsets[at] = now.offset
	}
}

// count counts n requests that stand so.
func (t *tally) count(s state, n int) {
	if s.pending() {
		t.pending += n
		return
	}
	switch s & verdictBits {
	case signed:
		t.sum.Signed += n
	case alreadySigned:
		t.sum.AlreadySigned += n
	case skipped:
		t.sum.Skipped += n
	case dead:
		t.sum.Dead += n
	case cancelled:
		t.sum.Cancelled += n
	}
}
