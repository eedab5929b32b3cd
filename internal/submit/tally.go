package submit

import (
	"cmp"
	"encoding/json"
	"fmt"
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
	// Hidden is how many signatures of the signed, not requests, cosign verify
	// passes over, from version 3; known only where those who signed were told to
	// look.
	Hidden int `json:"hidden,omitempty"`
}

// Done is how many requests have ended.
func (t Tally) Done() int { return t.Signed + t.AlreadySigned + t.Skipped + t.Failed() }

// Failed is how many requests belong on the failed list.
func (t Tally) Failed() int { return t.Dead + t.Cancelled }

// Bounds of what an outcome can make the tally hold: a stranger's may say anything.
const (
	maxSeq = 1 << 27
	maxGen = 1<<12 - 1
)

// tally keeps what the outcomes of a batch add up to, by the highest generation
// of each request: two bytes for each, and of one that failed also where in the
// spool its outcome is. A failed request that was noted for a later generation
// is pending. It is safe for use by several goroutines.
//
// A request is known by its seq. One whose message could not be read has an
// outcome without, and is known by its id until another outcome has both.
type tally struct {
	mu      sync.Mutex
	pages   []*page
	strays  map[key]standing
	noted   []*keySet // by generation
	spool   spool     // of failedRecord, superseded ones too
	sum     Tally
	pending int  // failed, and noted for a later generation
	behind  bool // there are notes or strays that reconcile has to look at
}

func newTally() *tally { return &tally{strays: make(map[key]standing)} }

// failedRecord is an outcome in the spool.
type failedRecord struct {
	ID  string `json:"id"`
	Gen int    `json:"gen"`
	Seq int    `json:"seq"`
	Failure
	Request *queue.Request `json:"request,omitempty"`
}

// add counts an outcome and reports whether it changed anything: it does not
// when it was told before, or is that of an earlier generation.
func (t *tally) add(o queue.Outcome) (fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.Gen < 0 || o.Gen > maxGen || o.Seq < 0 || o.Seq > maxSeq {
		return false, nil
	}
	k := keyOf(o.ID)
	t.join(o.Seq, k)
	if have := t.get(o.Seq, k); have.ended() && o.Gen <= have.gen() {
		return false, nil
	}
	now := standing{state: stateOf(o)}
	if now.failed() {
		if t.notedGen(k) > o.Gen {
			now.state |= askedAgain
		}
		record := failedRecord{ID: o.ID, Gen: o.Gen, Seq: o.Seq, Failure: failureOf(o), Request: o.Request}
		if now.offset, err = t.spool.append(record); err != nil {
			return false, err
		}
	}
	t.put(o.Seq, k, now)
	t.sum.Hidden += hidden(o)
	t.behind = t.behind || o.Seq == 0 && o.Gen > 0
	return true, nil
}

// hidden counts the signatures that are passed over. A request that failed may
// have made some too; the generation that signs it counts them all.
func hidden(o queue.Outcome) (n int) {
	if o.Verdict.Failed() {
		return 0
	}
	for _, d := range o.Digests {
		if d.Hidden {
			n++
		}
	}
	return n
}

// note takes into account that requests are asked for in a new generation.
func (t *tally) note(gen int, ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if gen < 1 || gen > maxGen {
		return
	}
	for len(t.noted) <= gen {
		t.noted = append(t.noted, nil)
	}
	if t.noted[gen] == nil {
		t.noted[gen] = new(keySet)
	}
	for _, id := range ids {
		if t.noted[gen].add(keyOf(id)) {
			t.behind = true
		}
	}
}

// reconcile applies the notes to what was counted before they were read, and
// finds the place of strays: whatever has a later generation has failed in an
// earlier one, and is in the spool.
func (t *tally) reconcile() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.behind {
		return nil
	}
	err := t.spool.each(func(_ int64, line []byte) error {
		var record struct {
			ID  string `json:"id"`
			Seq int    `json:"seq"`
		}
		if err := json.Unmarshal(line, &record); err != nil {
			return fmt.Errorf("decode a record of the temporary file: %w", err)
		}
		k := keyOf(record.ID)
		t.join(record.Seq, k)
		if now := t.get(record.Seq, k); now.failed() && !now.pending() && t.notedGen(k) > now.gen() {
			now.state |= askedAgain
			t.put(record.Seq, k, now)
		}
		return nil
	})
	t.behind = err != nil
	return err
}

// counts are of the requests that have ended for good.
func (t *tally) counts() Tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum
}

// asked is how many requests have failed and are asked for once more.
func (t *tally) asked() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending
}

// known reports whether a request has an outcome, of whatever generation.
func (t *tally) known(seq int, id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.find(seq, keyOf(id)).ended()
}

// due is the generation of a request that is to have an outcome and has none.
func (t *tally) due(seq int, id string) (gen int, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := keyOf(id)
	now := t.find(seq, k)
	return t.notedGen(k), !now.ended() || now.pending()
}

// standing is how a request stands by its highest generation, and the highest
// one that it was noted for.
func (t *tally) standing(seq int, id string) (now standing, noted int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := keyOf(id)
	return t.find(seq, k), t.notedGen(k)
}

// notedFor is the highest generation that a request was noted for, or 0.
func (t *tally) notedFor(id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.notedGen(keyOf(id))
}

// eachCancelled calls visit, which must not call the tally, for the request of
// every cancelled outcome.
func (t *tally) eachCancelled(visit func(r queue.Request, now standing, noted int) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spool.each(func(_ int64, line []byte) error {
		var record failedRecord
		if err := json.Unmarshal(line, &record); err != nil {
			return fmt.Errorf("decode a record of the temporary file: %w", err)
		}
		r := record.Request
		if r == nil || r.ID != record.ID || r.Gen != record.Gen {
			return nil
		}
		k := keyOf(r.ID)
		return visit(*r, t.find(record.Seq, k), t.notedGen(k))
	})
}

// failedLine is the spool's line of a request that has failed for good. Its
// record has no line of the list if it is a stray.
func (t *tally) failedLine(seq int, id string) (line []byte, stray, ok bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := keyOf(id)
	now := t.find(seq, k)
	if !now.failed() || now.pending() {
		return nil, false, false, nil
	}
	line, err = t.spool.line(now.offset)
	return line, !t.get(seq, k).ended(), true, err
}

// failures calls visit for the spool's line of every request that has failed for
// good, in the order of their seq; those without one come last.
func (t *tally) failures(visit func(line []byte) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	tell := func(now standing) error {
		if !now.failed() || now.pending() {
			return nil
		}
		line, err := t.spool.line(now.offset)
		if err != nil {
			return err
		}
		return visit(line)
	}
	for number, p := range t.pages {
		if p == nil || p.offsets == nil {
			continue
		}
		for at := range p.states {
			if err := tell(t.get(number*pageSize+at, key{})); err != nil {
				return err
			}
		}
	}
	strays := make([]standing, 0, len(t.strays))
	for _, now := range t.strays {
		strays = append(strays, now)
	}
	slices.SortFunc(strays, func(a, b standing) int { return cmp.Compare(a.offset, b.offset) })
	for _, now := range strays {
		if err := tell(now); err != nil {
			return err
		}
	}
	return nil
}

// failedOf is how many requests have failed for good, of one class or, with none
// given, all.
func (t *tally) failedOf(class string) (n int, err error) {
	if class == "" {
		return t.counts().Failed(), nil
	}
	err = t.failures(func(line []byte) error {
		var f Failure
		if err := json.Unmarshal(line, &f); err != nil {
			return fmt.Errorf("decode a record of the temporary file: %w", err)
		}
		if f.Class == class {
			n++
		}
		return nil
	})
	return n, err
}

// placeless is how many requests are known by their id alone.
func (t *tally) placeless() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.strays)
}

// Close gives up the spool.
func (t *tally) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spool.Close()
}

// notedGen is the highest generation that a request was noted for.
func (t *tally) notedGen(k key) int {
	for gen := len(t.noted) - 1; gen > 0; gen-- {
		if t.noted[gen] != nil && t.noted[gen].has(k) {
			return gen
		}
	}
	return 0
}

// find is get for a request whose outcome may have come without its seq.
func (t *tally) find(seq int, k key) standing {
	if now := t.get(seq, k); now.ended() {
		return now
	}
	return t.strays[k]
}

// join gives a stray its place.
func (t *tally) join(seq int, k key) {
	stray, ok := t.strays[k]
	if !ok || seq < 1 || seq > maxSeq {
		return
	}
	t.count(stray.state, -1)
	delete(t.strays, k)
	if have := t.get(seq, k); !have.ended() || stray.gen() > have.gen() {
		t.put(seq, k, stray)
	}
}
