package worker

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// books are all that is left when everything has ended.
type books struct {
	published []queue.Request
	outcomes  []queue.Outcome
	letters   []queue.DeadLetter
	ledger    map[string]queue.Entry
	present   map[string]bool
}

func newBooks() books {
	return books{ledger: make(map[string]queue.Entry), present: make(map[string]bool)}
}

func (b *books) outcomesOf(key string) []queue.Outcome {
	var found []queue.Outcome
	for _, o := range b.outcomes {
		if keyOf(o.Batch, o.ID, o.Gen) == key {
			found = append(found, o)
		}
	}
	return found
}

// audit says what does not add up: each request and generation has exactly one
// outcome, each dead one its dead letter and nothing else one, what is
// cancelled can be retried, and no entry is left on the ledger but of requests
// for which there is an excuse.
func (b *books) audit(excused func(key string) bool) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	asked := make(map[string]bool)
	for _, r := range b.published {
		key := requestKey(r)
		asked[key] = true
		outcomes := b.outcomesOf(key)
		if len(outcomes) != 1 {
			complain("%s: %d outcomes", key, len(outcomes))
			continue
		}
		o := outcomes[0]
		letters := slices.DeleteFunc(slices.Clone(b.letters), func(l queue.DeadLetter) bool { return requestKey(l.Request) != key })
		switch {
		case o.Verdict == queue.Dead && len(letters) != 1:
			complain("%s: dead with %d dead letters", key, len(letters))
		case o.Verdict == queue.Dead && (letters[0].Class != o.Class || o.Class == "" || !reflect.DeepEqual(letters[0].Request, r)):
			complain("%s: the dead letter says something else", key)
		case o.Verdict != queue.Dead && len(letters) > 0:
			complain("%s: %s, with a dead letter", key, o.Verdict)
		case o.Verdict == queue.Cancelled && (o.Request == nil || !reflect.DeepEqual(*o.Request, r)):
			complain("%s: cancelled without its request", key)
		}
		if _, left := b.ledger[key]; left && !excused(key) {
			complain("%s: left on the ledger", key)
		}
	}
	for _, o := range b.outcomes {
		if key := keyOf(o.Batch, o.ID, o.Gen); !asked[key] {
			complain("%s: an outcome nobody asked for", key)
		}
	}
	return wrong
}

// The accounts are worth nothing if they close over whatever is in the books.
func TestAuditFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	signed, dead, stopped := testRequest(), testRequest(), testRequest()
	dead.Gen, stopped.Gen = 1, 2
	outcome := func(r queue.Request, v queue.Verdict) queue.Outcome {
		o := queue.Outcome{Batch: r.Batch, ID: r.ID, Gen: r.Gen, Verdict: v}
		switch v {
		case queue.Dead:
			o.Class = Denied
		case queue.Cancelled:
			o.Request = &r
		}
		return o
	}
	right := func() books {
		b := newBooks()
		b.published = []queue.Request{signed, dead, stopped}
		b.outcomes = []queue.Outcome{outcome(signed, queue.Signed), outcome(dead, queue.Dead), outcome(stopped, queue.Cancelled)}
		b.letters = []queue.DeadLetter{{Request: dead, Class: Denied}}
		return b
	}
	never := func(string) bool { return false }
	b := right()
	require.Empty(t, b.audit(never))
	for name, test := range map[string]struct {
		spoil func(*books)
		want  string
	}{
		"an outcome is lost":         {func(b *books) { b.outcomes = b.outcomes[1:] }, "0 outcomes"},
		"an outcome is double":       {func(b *books) { b.outcomes = append(b.outcomes, b.outcomes[0]) }, "2 outcomes"},
		"an outcome of nobody":       {func(b *books) { b.published = b.published[1:] }, "nobody asked for"},
		"a dead letter is lost":      {func(b *books) { b.letters = nil }, "0 dead letters"},
		"a dead letter is double":    {func(b *books) { b.letters = append(b.letters, b.letters[0]) }, "2 dead letters"},
		"a dead letter is wrong":     {func(b *books) { b.letters[0].Class = Timeout }, "says something else"},
		"a dead letter too many":     {func(b *books) { b.letters = append(b.letters, queue.DeadLetter{Request: signed}) }, "signed, with a dead letter"},
		"the request is lost":        {func(b *books) { b.outcomes[2].Request = nil }, "without its request"},
		"an entry on the ledger":     {func(b *books) { b.ledger[requestKey(signed)] = queue.Entry{} }, "left on the ledger"},
		"another line's dead letter": {func(b *books) { b.letters[0].Request.Line = "x" }, "says something else"},
	} {
		b := right()
		test.spoil(&b)
		require.Len(t, b.audit(never), 1, name)
		require.Contains(t, b.audit(never)[0], test.want, name)
	}
}
