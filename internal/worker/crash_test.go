package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

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
				m := newModel(t, 1)
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
				require.Equal(t, test.verdict, m.book.outcomes[requestKey(m.requests[0].request)].Verdict)
			}
		})
	}
}

// Random crashes, failures and panics: whatever happens, the accounts close.
func TestAccountsClose(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		random := rand.New(rand.NewPCG(seed, 1))
		m := newModel(t, 4)
		crashes := 0.02 + 0.3*random.Float64()
		m.crash = func() bool { return random.Float64() < crashes }
		m.choose = random.IntN
		m.signer = func(context.Context, sign.Request) (sign.Result, error) {
			switch n := random.IntN(20); {
			case n < 8:
				return sign.Result{}, answered(500, 0)
			case n < 10:
				return sign.Result{}, answered(429, 10*time.Second)
			case n == 10:
				return sign.Result{}, answered(404, 0)
			case n == 11:
				panic("boom")
			}
			return oneSigned, nil
		}
		m.run(fmt.Sprintf("seed %d", seed))
	}
}

// model is a queue and workers that die: each delivery of a request is handled
// by a worker that may crash before any step.
type model struct {
	t        *testing.T
	book     *book
	worker   *Worker
	signer   signerFunc
	crash    func() bool
	choose   func(n int) int
	requests []*modelRequest
}

type modelRequest struct {
	request   queue.Request
	delivered int
	crashes   int
	tries     int // of signing
	acked     bool
}

func newModel(t *testing.T, n int) *model {
	m := &model{t: t, book: newBook(), choose: func(int) int { return 0 }}
	for i := range n {
		r := testRequest()
		r.Reference += fmt.Sprint(i)
		m.requests = append(m.requests, &modelRequest{request: r.Sealed()})
	}
	m.worker = testWorker(m.book, nil)
	return m
}

func (m *model) run(about string) {
	open := append([]*modelRequest(nil), m.requests...)
	for rounds := 0; len(open) > 0; rounds++ {
		require.Less(m.t, rounds, 10_000, "%s: does not end", about)
		i := m.choose(len(open))
		if m.deliver(open[i], about); open[i].acked {
			open = append(open[:i], open[i+1:]...)
		}
	}
	require.Len(m.t, m.book.outcomes, len(m.requests), about)
	for _, r := range m.requests {
		outcome := m.book.outcomes[requestKey(r.request)]
		letter, dead := m.book.letters[requestKey(r.request)]
		require.Equal(m.t, outcome.Verdict == queue.Dead, dead, about)
		require.Equal(m.t, outcome.Class, letter.Class, about)
		require.LessOrEqual(m.t, outcome.Attempts, m.worker.options.Attempts, about)
		require.LessOrEqual(m.t, outcome.Attempts, r.tries, about)
		if outcome.Class == Poison {
			require.Greater(m.t, r.crashes, m.worker.options.MaxDeaths, about)
		}
	}
}

// deliver delivers a request once and checks what was left behind.
func (m *model) deliver(r *modelRequest, about string) {
	r.delivered++
	key, p := requestKey(r.request), &parcel{book: m.book}
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
		r.tries++
		return m.signer(ctx, s)
	})
	go func() {
		defer close(finished)
		m.worker.handle(m.t.Context(), m.t.Context(), jobOf(r.request, r.delivered, p))
	}()
	<-finished
	if crashed {
		r.crashes++
	}
	entry, onLedger := m.book.ledger[key]
	require.LessOrEqual(m.t, entry.Deaths, r.crashes, "%s: deaths of nobody", about)
	if r.acked = p.acked; r.acked {
		outcome, ended := m.book.outcomes[key]
		require.True(m.t, ended, "%s: acknowledged without an outcome", about)
		if outcome.Verdict == queue.Dead {
			require.Contains(m.t, m.book.letters, key, "%s: acknowledged without its dead letter", about)
		}
		require.Equal(m.t, crashed && r.delivered > 1 && onLedger, onLedger, "%s: an entry was left on the ledger", about)
	}
}
