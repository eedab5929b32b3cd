package queue_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func record(t testing.TB, conn *queue.Conn, batch string, from, to int) {
	t.Helper()
	for seq := from; seq <= to; seq++ {
		_, err := conn.Record(within(t), outcome(request(batch, seq), queue.Signed))
		require.NoError(t, err)
	}
}

// following collects what Follow tells.
type following struct {
	mu       sync.Mutex
	seqs     []int
	caughtUp []int // how many outcomes had been told, at each call
	ended    chan error
	stop     context.CancelCauseFunc
}

func follow(t *testing.T, conn *queue.Conn, batch string) *following {
	t.Helper()
	ctx, stop := context.WithCancelCause(within(t))
	f := &following{ended: make(chan error, 1), stop: stop}
	go func() {
		f.ended <- conn.Follow(ctx, batch, func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.caughtUp = append(f.caughtUp, len(f.seqs))
			return nil
		}, func(o queue.Outcome) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.seqs = append(f.seqs, o.Seq)
			return nil
		})
	}()
	return f
}

func (f *following) told() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int(nil), f.seqs...)
}

func (f *following) catches() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int(nil), f.caughtUp...)
}

func upTo(n int) []int {
	seqs := make([]int, n)
	for i := range seqs {
		seqs[i] = i + 1
	}
	return seqs
}

func TestFollowTellsThePastAndThenWhatComes(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	record(t, conn, "other", 1, 5)
	record(t, conn, "b", 1, 300) // more than one pull
	f := follow(t, conn, "b")
	eventually(t, func() bool { return len(f.catches()) == 1 }, "not caught up")
	record(t, conn, "b", 301, 310)
	eventually(t, func() bool { return len(f.told()) == 310 }, "not told")

	stopped := errors.New("enough")
	f.stop(stopped)
	require.ErrorIs(t, <-f.ended, stopped)
	require.Equal(t, upTo(310), f.told())
	require.Equal(t, []int{300}, f.catches())

	_, js := raw(t, srv)
	s, err := js.Stream(within(t), "SIGN_OUTCOMES")
	require.NoError(t, err)
	require.Zero(t, s.CachedInfo().State.Consumers, "the follower leaves nothing behind")
}

func TestFollowOfABatchWithoutAPast(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	f := follow(t, conn, "b")
	eventually(t, func() bool { return len(f.catches()) == 1 }, "not caught up")
	require.Empty(t, f.told())
	record(t, conn, "b", 1, 2)
	eventually(t, func() bool { return len(f.told()) == 2 }, "not told")
	f.stop(context.Canceled)
	require.ErrorIs(t, <-f.ended, context.Canceled)
	require.Equal(t, []int{0}, f.catches())
}

func TestFollowEndsWithTheErrorOfItsCaller(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	record(t, conn, "b", 1, 3)
	enough := errors.New("enough")
	nothing := func() error { return nil }
	told := 0
	err := conn.Follow(within(t), "b", nothing, func(queue.Outcome) error { told++; return enough })
	require.Equal(t, enough, err)
	require.Equal(t, 1, told)
	err = conn.Follow(within(t), "b", func() error { return enough }, func(queue.Outcome) error { told++; return nil })
	require.Equal(t, enough, err)
	require.Equal(t, 4, told)
	require.Equal(t, enough, conn.Follow(within(t), "none", func() error { return enough }, nil))
}

func TestFollowOutlivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	record(t, conn, "b", 1, 3)
	f := follow(t, conn, "b")
	eventually(t, func() bool { return len(f.told()) == 3 }, "not told")
	srv = queuetest.Restart(t, srv)
	record(t, connect(t, srv, queue.Options{}), "b", 4, 6)
	eventually(t, func() bool { return len(f.told()) >= 6 }, "not told after the restart")
	f.stop(context.Canceled)
	require.ErrorIs(t, <-f.ended, context.Canceled)
	require.Equal(t, upTo(6), f.told())
	require.Equal(t, []int{3}, f.catches())
}

func TestFollowOutlivesTheLossOfItsConsumer(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	record(t, conn, "b", 1, 3)
	f := follow(t, conn, "b")
	eventually(t, func() bool { return len(f.told()) == 3 }, "not told")
	_, js := raw(t, srv)
	s, err := js.Stream(within(t), "SIGN_OUTCOMES")
	require.NoError(t, err)
	for name := range s.ConsumerNames(within(t)).Name() {
		require.NoError(t, s.DeleteConsumer(within(t), name))
	}
	record(t, conn, "b", 4, 6)
	eventually(t, func() bool { return len(f.told()) >= 6 }, "not told")
	f.stop(context.Canceled)
	require.ErrorIs(t, <-f.ended, context.Canceled)
	require.Equal(t, upTo(6), f.told())
}

func TestFollowOutlivesAServerThatForgot(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	record(t, conn, "b", 1, 3)
	f := follow(t, conn, "b")
	eventually(t, func() bool { return len(f.told()) == 3 }, "not told")
	// As after a power loss: the stream is back, with fewer records and their numbers given anew.
	_, js := raw(t, srv)
	s, err := js.Stream(within(t), "SIGN_OUTCOMES")
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(within(t), "SIGN_OUTCOMES"))
	_, err = js.CreateStream(within(t), s.CachedInfo().Config)
	require.NoError(t, err)
	record(t, conn, "b", 7, 8)
	eventually(t, func() bool { told := f.told(); return len(told) == 5 && told[4] == 8 }, "not told")
	f.stop(context.Canceled)
	require.ErrorIs(t, <-f.ended, context.Canceled)
}

func TestFollowDoesNotTellForgedOutcomes(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	record(t, conn, "b", 1, 1)
	forge(t, srv, "SIGN_OUTCOMES", "sign.outcome.b."+request("b", 1).ID+".0", "sign.outcome.b."+request("b", 2).ID+".0")
	_, js := raw(t, srv)
	_, err := js.Publish(within(t), "sign.outcome.b.x.0", []byte("garbage"))
	require.NoError(t, err)
	f := follow(t, conn, "b")
	eventually(t, func() bool { return len(f.catches()) == 1 }, "not caught up")
	record(t, conn, "b", 3, 3)
	eventually(t, func() bool { return len(f.told()) == 2 }, "not told")
	f.stop(context.Canceled)
	require.ErrorIs(t, <-f.ended, context.Canceled)
	require.Equal(t, []int{1, 3}, f.told())
}

func TestFollowEndsAtAnOutcomeOfALaterVersion(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	record(t, conn, "b", 1, 1)
	_, js := raw(t, srv)
	_, err := js.Publish(within(t), "sign.outcome.b."+request("b", 2).ID+".0", []byte(`{"version":2,"wonder":1}`))
	require.NoError(t, err)
	f := follow(t, conn, "b")
	err = <-f.ended
	var later *queue.VersionError
	require.ErrorAs(t, err, &later)
	require.Equal(t, 2, later.Version)
	require.ErrorContains(t, err, "use a newer sign-submit")
	require.Equal(t, []int{1}, f.told())
}

// A pull that ends by its time while messages are pending is not the end of the past.
func TestOutcomesAreWholeWhereTheServerStalls(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	for seq := 1; seq <= 1000; seq++ {
		_, err := conn.Record(within(t), outcome(request("b", seq), queue.Signed))
		require.NoError(t, err)
	}
	told := 0
	require.NoError(t, conn.Outcomes(within(t), "b", func(queue.Outcome) error {
		if told++; told != 200 {
			return nil
		}
		stream, err := js.Stream(within(t), "SIGN_OUTCOMES")
		require.NoError(t, err)
		names := stream.ConsumerNames(within(t))
		for name := range names.Name() {
			_, err := stream.PauseConsumer(within(t), name, time.Now().Add(time.Second))
			require.NoError(t, err)
		}
		return names.Err()
	}))
	require.Equal(t, 1000, told)
}
