package worker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// oracle is what answers are asked of.
type oracle struct {
	answer string
	err    error
	after  time.Duration

	mu    sync.Mutex
	asked int
}

func (o *oracle) ask(ctx context.Context, _ string) (string, error) {
	o.mu.Lock()
	o.asked++
	answer, err, after := o.answer, o.err, o.after
	o.mu.Unlock()
	select {
	case <-time.After(after):
		return answer, err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func TestAnswersAreAskedForOncePerSecondAndKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{answer: "no"}
		a := newAnswers(o.ask)
		is := func(key string) string {
			answer, err := a.of(t.Context(), key)
			require.NoError(t, err)
			return answer
		}
		for range 10 {
			require.Equal(t, "no", is("a"))
			require.Equal(t, "no", is("b"))
		}
		require.Equal(t, 2, o.asked)

		o.answer = "yes"
		require.Equal(t, "no", is("a"), "known for less than a second")
		time.Sleep(answerAge)
		require.Equal(t, "yes", is("a"))
		require.Equal(t, 3, o.asked)
	})
}

// Nothing of a batch that was cancelled long ago is signed because others are
// just asking.
func TestFirstQuestionIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{answer: "yes", after: time.Millisecond}
		a := newAnswers(o.ask)
		var asking sync.WaitGroup
		var got [8]string
		for i := range got {
			asking.Go(func() { got[i], _ = a.of(t.Context(), "a") })
		}
		asking.Wait()
		require.NotContains(t, got, "")
	})
}

// Those who come while somebody asks go on with what was known a moment ago,
// but not with what was known long ago.
func TestOldAnswersAreNotGoneOnWith(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]string{answerAge + time.Millisecond: "no", time.Hour: "yes"} {
		synctest.Test(t, func(t *testing.T) {
			o := &oracle{answer: "no"}
			a := newAnswers(o.ask)
			_, err := a.of(t.Context(), "a")
			require.NoError(t, err)
			time.Sleep(age)
			o.answer, o.after = "yes", 100*time.Millisecond
			var first sync.WaitGroup
			first.Go(func() { _, _ = a.of(t.Context(), "a") })
			synctest.Wait()
			second, err := a.of(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, want, second)
			first.Wait()
		})
	}
}

func TestWithoutAnAnswerTheLastOneHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{err: errors.New("no leader")}
		a := newAnswers(o.ask)
		answer, err := a.of(t.Context(), "a")
		require.Error(t, err)
		require.Empty(t, answer)
		answer, err = a.of(t.Context(), "a")
		require.NoError(t, err, "asked less than a second ago")
		require.Empty(t, answer)

		o.answer, o.err = "yes", nil
		time.Sleep(answerAge)
		_, err = a.of(t.Context(), "a")
		require.NoError(t, err)

		o.answer, o.after = "no", time.Hour // no answer
		time.Sleep(answerAge)
		answer, err = a.of(t.Context(), "a")
		require.Error(t, err)
		require.Equal(t, "yes", answer)
	})
}

// An answer that took long does not replace one to a later question.
func TestALateAnswerIsOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{answer: "no"}
		a := newAnswers(o.ask)
		_, err := a.of(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(answerAge)
		var late sync.WaitGroup
		o.after = 5 * time.Second
		late.Go(func() { _, _ = a.of(t.Context(), "a") })
		time.Sleep(answerAge)
		synctest.Wait()
		o.answer, o.after = "yes", 0
		_, err = a.of(t.Context(), "a")
		require.NoError(t, err)
		late.Wait()
		require.Equal(t, "yes", a.known["a"].value)
	})
}

func TestAnswersAreForgottenWhenMany(t *testing.T) {
	t.Parallel()
	a := newAnswers(func(context.Context, string) (bool, error) { return true, nil })
	for i := range 3 * maxAnswers {
		_, err := a.of(t.Context(), time.Duration(i).String())
		require.NoError(t, err)
		require.LessOrEqual(t, len(a.known), maxAnswers)
	}
}

func TestCancellationUnknown(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.before = onStep("ask", func(context.Context) error { return errors.New("no leader") })
	deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 1)
	require.Equal(t, queue.Signed, b.outcomes[requestKey(testRequest())].Verdict)
}

// A retry of what was cancelled runs, and only what is cancelled ends.
func TestCancellationIsOfGenerations(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.cancelled = 2
	w := testWorker(b, func(context.Context, sign.Request) (sign.Result, error) { return oneSigned, nil })
	for gen, want := range []queue.Verdict{queue.Cancelled, queue.Cancelled, queue.Signed} {
		r := testRequest()
		r.Gen = gen
		deliver(t, w, b, r, 1)
		o := b.outcomes[requestKey(r)]
		require.Equal(t, want, o.Verdict)
		if want == queue.Cancelled {
			require.Equal(t, &r, o.Request, "a retry has nothing else to go by")
		} else {
			require.Nil(t, o.Request)
		}
	}
}
