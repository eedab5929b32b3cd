package worker

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// A worker that dies between any two steps, and another one after it.
func TestCrashBetweenSteps(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		sign    signerFunc
		verdict queue.Verdict
	}{
		"signed":       {signsAtOnce, queue.Signed},
		"dead":         {func(context.Context, sign.Request) (sign.Result, error) { return sign.Result{}, answered(404, 0) }, queue.Dead},
		"failed twice": {failsAtOnce, queue.Dead},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Each point is before the nth step and, at the same time, after the one before.
			for point, reached := 0, true; reached; point++ {
				m := newModel(t)
				m.worker.options.Attempts = 2
				m.signer = test.sign
				reached = false
				at := -1
				m.crash = func() bool {
					at++
					reached = reached || at == point
					return at == point
				}
				m.run(fmt.Sprintf("crash before step %d", point))
				require.Equal(t, test.verdict, m.book.outcomes[requestKey(m.request)].Verdict)
			}
		})
	}
}

// model is a queue and workers that die: each delivery of a request is handled
// by a worker that may crash before any step.
type model struct {
	t         *testing.T
	book      *book
	worker    *Worker
	signer    signerFunc
	crash     func() bool
	request   queue.Request
	delivered int
	crashes   int
}

func newModel(t *testing.T) *model {
	m := &model{t: t, book: newBook(), request: testRequest()}
	m.worker = testWorker(m.book, nil)
	return m
}

// run delivers the request until it is acknowledged.
func (m *model) run(about string) {
	for acked := false; !acked; {
		require.Less(m.t, m.delivered, 100, "%s: does not end", about)
		acked = m.deliver(about)
	}
	require.Len(m.t, m.book.outcomes, 1, about)
	outcome := m.book.outcomes[requestKey(m.request)]
	letter, dead := m.book.letters[requestKey(m.request)]
	require.Equal(m.t, outcome.Verdict == queue.Dead, dead, about)
	require.Equal(m.t, outcome.Class, letter.Class, about)
	require.LessOrEqual(m.t, outcome.Attempts, m.worker.options.Attempts, about)
}

// deliver delivers the request once and checks what was left behind.
func (m *model) deliver(about string) bool {
	m.delivered++
	key, p := requestKey(m.request), &parcel{book: m.book}
	crashed, finished := false, make(chan struct{})
	die := func() {
		if m.crash() {
			crashed = true
			runtime.Goexit() // nothing of this worker happens any more
		}
	}
	m.book.before = func(context.Context, string) error {
		die()
		return nil
	}
	m.worker.signer = signerFunc(func(ctx context.Context, s sign.Request) (sign.Result, error) {
		die()
		return m.signer(ctx, s)
	})
	go func() {
		defer close(finished)
		m.worker.handle(m.t.Context(), m.t.Context(), jobOf(m.request, m.delivered, p))
	}()
	<-finished
	if crashed {
		m.crashes++
	}
	entry, onLedger := m.book.ledger[key]
	require.LessOrEqual(m.t, entry.Deaths, m.crashes, "%s: deaths of nobody", about)
	if p.acked {
		outcome, ended := m.book.outcomes[key]
		require.True(m.t, ended, "%s: acknowledged without an outcome", about)
		if outcome.Verdict == queue.Dead {
			require.Contains(m.t, m.book.letters, key, "%s: acknowledged without its dead letter", about)
		}
		require.Equal(m.t, crashed && m.delivered > 1 && onLedger, onLedger, "%s: an entry was left on the ledger", about)
	}
	return p.acked
}
