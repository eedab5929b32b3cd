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
)

// cancelledBatches counts the questions it is asked.
type cancelledBatches struct {
	*book
	asked int
}

func (c *cancelledBatches) Cancelled(ctx context.Context, batch string) (bool, error) {
	c.asked++
	return c.book.Cancelled(ctx, batch)
}

func TestCancellationIsAskedOncePerSecondAndBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queued := &cancelledBatches{book: newBook()}
		c := newCancellations(queued)
		is := func(batch string) bool {
			cancelled, err := c.is(t.Context(), batch)
			require.NoError(t, err)
			return cancelled
		}
		for range 10 {
			require.False(t, is("a"))
			require.False(t, is("b"))
		}
		require.Equal(t, 2, queued.asked)

		queued.cancelled = true
		require.False(t, is("a"), "known for less than a second")
		time.Sleep(cancellationAge)
		require.True(t, is("a"))
		time.Sleep(time.Hour)
		require.True(t, is("a"), "for good")
		require.Equal(t, 3, queued.asked)
	})
}

// Nothing of a batch that was cancelled long ago is signed because others are
// just asking.
func TestFirstQuestionIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		b.cancelled = true
		b.before = func(context.Context, string) error {
			time.Sleep(time.Millisecond)
			return nil
		}
		c := newCancellations(b)
		var asking sync.WaitGroup
		var answers [8]bool
		for i := range answers {
			asking.Go(func() { answers[i], _ = c.is(t.Context(), "a") })
		}
		asking.Wait()
		require.NotContains(t, answers, false)
	})
}

func TestCancellationUnknown(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.before = onStep("ask cancelled", func(context.Context) error { return errors.New("no leader") })
	deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 1)
	require.Equal(t, queue.Signed, b.outcomes[requestKey(testRequest())].Verdict)
}

func TestCancellationsAreForgottenWhenMany(t *testing.T) {
	t.Parallel()
	c := newCancellations(newBook())
	for i := range 3 * maxCancellations {
		_, err := c.is(t.Context(), time.Duration(i).String())
		require.NoError(t, err)
		require.LessOrEqual(t, len(c.known), maxCancellations)
	}
}
