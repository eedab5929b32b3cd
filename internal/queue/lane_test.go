package queue_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func TestASmallBatchIsNotStarvedByALargeOne(t *testing.T) {
	t.Parallel()
	for _, free := range []int{1, 2, 5} {
		srv, conn := newQueue(t, queue.Options{})
		publish(t, conn, 0, "large", 100)
		publish(t, conn, 2, "small", 5)
		// The server tells its consumers of new messages a moment after the publisher.
		_, js := raw(t, srv)
		eventually(t, func() bool {
			c, err := js.Consumer(within(t), "SIGN_REQUESTS", "bulk-02")
			require.NoError(t, err)
			return c.CachedInfo().NumPending == 5
		}, "not pending")
		lane := conn.BulkLane()
		var order []string
		for len(order) < 105 {
			for _, d := range next(t, lane, free) {
				order = append(order, d.Request.Batch)
				require.NoError(t, d.Done(within(t)))
			}
		}
		small := 0
		for _, batch := range order[:20] {
			if batch == "small" {
				small++
			}
		}
		require.Equal(t, 5, small, "with %d free slots: %v", free, order[:20])
	}
}

func TestALaneGivesNoMoreThanIsFree(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{AckWait: never})
	for p, batch := range []string{"a", "b", "c"} {
		publish(t, conn, p, batch, 7)
	}
	lane := conn.BulkLane()
	seen := map[string]bool{}
	for len(seen) < 21 {
		for _, d := range next(t, lane, 4) { // next asserts that there are at most 4
			require.False(t, seen[d.Request.ID], "delivered twice")
			seen[d.Request.ID] = true
		}
	}
	_, err := lane.Next(within(t), 0)
	require.ErrorContains(t, err, "0 free slots")
}

func TestEventsHaveALaneOfTheirOwn(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	publish(t, conn, 0, "bulk-batch", 3)
	_, js := raw(t, srv)
	for _, data := range []string{`{"version":1,"id":"one","batch":"e"}`, `{"version":1,"id":"two","batch":"e"}`} {
		_, err := js.Publish(within(t), "sign.request.event.harbor.e", []byte(data))
		require.NoError(t, err)
	}
	got := next(t, conn.EventLane(), 8)
	require.Len(t, got, 2)
	require.Equal(t, "one", got[0].Request.ID)
	require.Equal(t, "event", got[0].Lane)
	require.Equal(t, "bulk-batch", one(t, conn.BulkLane()).Request.Batch)
}

// awaitPulls waits until a consumer has n open pulls.
func awaitPulls(t *testing.T, srv *server.Server, consumer string, n int) {
	t.Helper()
	_, js := raw(t, srv)
	eventually(t, func() bool {
		c, err := js.Consumer(within(t), "SIGN_REQUESTS", consumer)
		require.NoError(t, err)
		return c.CachedInfo().NumWaiting >= n
	}, "no open pull")
}

func TestAnIdleLaneIsWokenByAPublish(t *testing.T) {
	t.Parallel()
	// Nothing but the open pull can wake it: it neither polls nor asks anew.
	srv, conn := newQueue(t, queue.Options{PollInterval: never, IdleWait: never})
	for _, c := range []struct {
		lane     *queue.Lane
		consumer string
		publish  func()
	}{
		{conn.BulkLane(), "bulk-02", func() { publish(t, conn, 2, "b", 3) }},
		{conn.EventLane(), "event", func() {
			_, js := raw(t, srv)
			_, err := js.Publish(within(t), "sign.request.event.x.b", []byte(`{"version":1,"id":"i","batch":"b"}`))
			require.NoError(t, err)
		}},
	} {
		got := make(chan []*queue.Delivery)
		go func() {
			d, _ := c.lane.Next(within(t), 8)
			got <- d
		}()
		awaitPulls(t, srv, c.consumer, 1)
		c.publish()
		first := <-got
		require.NotEmpty(t, first)
		if c.consumer == "event" {
			continue
		}
		// Where one was there may be more: the lane looks there without a poll.
		for left := 3 - len(first); left > 0; {
			left -= len(next(t, c.lane, 8))
		}
	}
}

func TestACancelledLaneLosesNothing(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 3} {
		srv, conn := newQueue(t, queue.Options{AckWait: never, Partitions: partitions})
		other := connect(t, srv, queue.Options{AckWait: never, Partitions: partitions}).BulkLane()
		publisher := conn.Publisher(0)
		for seq := 1; seq <= 60; seq++ {
			ctx, cancel := context.WithCancel(within(t))
			var wg sync.WaitGroup
			wg.Go(func() {
				defer cancel() // somewhere around the delivery
				if publisher.Publish(within(t), request("b", seq)) == nil && seq%3 > 0 {
					_ = publisher.Flush(within(t))
				}
			})
			lane := conn.BulkLane()
			got, err := lane.Next(ctx, 2)
			wg.Wait()
			require.NoError(t, publisher.Flush(within(t)))
			if len(got) == 0 {
				require.ErrorIs(t, err, context.Canceled)
				got = []*queue.Delivery{one(t, other)} // at once: the ack wait is an hour
			}
			require.Len(t, got, 1)
			require.Equal(t, seq, got[0].Request.Seq)
			require.NoError(t, got[0].Done(within(t)))
		}
	}
}

func TestRetryComesAgain(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{AckWait: never})
	lane := conn.BulkLane()
	publish(t, conn, 0, "b", 2)

	later := one(t, lane)
	require.NoError(t, later.Retry(within(t), never))
	for delivered := 1; delivered <= 3; delivered++ {
		d := one(t, lane) // never the one that is to wait
		require.NotEqual(t, later.Request.ID, d.Request.ID)
		require.Equal(t, delivered, d.Delivered)
		require.NoError(t, d.Retry(within(t), time.Duration(delivered-1)*50*time.Millisecond))
		require.NoError(t, d.Retry(within(t), 0), "a second call is harmless")
	}
}

func TestTenThousandThatWaitStopNobody(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{AckWait: never})
	lane := conn.BulkLane()
	publish(t, conn, 0, "waits", 1500) // more than the server's default for unacknowledged messages
	for left := 1500; left > 0; {
		var wg sync.WaitGroup
		for _, d := range next(t, lane, 100) {
			left--
			wg.Go(func() { _ = d.Retry(within(t), never) })
		}
		wg.Wait()
	}
	publish(t, conn, 0, "fresh", 1)
	require.Equal(t, "fresh", one(t, lane).Request.Batch)
}

func TestKeepAliveHoldsARequestBeyondItsAckWait(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{AckWait: 2 * time.Second})
	lane := conn.BulkLane()
	publish(t, conn, 0, "kept", 1)
	kept := one(t, lane)

	alive, stop := context.WithCancel(within(t))
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = kept.KeepAlive()
			case <-alive.Done():
				return
			}
		}
	})
	publish(t, conn, 1, "forgotten", 1)
	for delivered := 1; delivered <= 3; delivered++ { // two ack waits
		d := one(t, lane)
		require.Equal(t, "forgotten", d.Request.Batch)
		require.Equal(t, delivered, d.Delivered)
	}
	stop()
	wg.Wait()
	require.NoError(t, kept.Done(within(t)))
}

func TestDoneIsConfirmed(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	publish(t, conn, 0, "b", 1)
	d := one(t, conn.BulkLane())
	require.NoError(t, d.Done(within(t)))
	require.Zero(t, stored(t, js, "SIGN_REQUESTS"))
	require.NoError(t, d.Done(within(t)), "a second call is harmless")
	require.NoError(t, d.KeepAlive(), "and so is a late sign of life")
}

func TestDoneSaysWhenItIsNotConfirmed(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	publish(t, conn, 0, "b", 2)
	d := one(t, conn.BulkLane())
	again := queuetest.Stop(t, srv)
	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, d.Done(hurried), context.DeadlineExceeded)
	require.ErrorIs(t, d.Retry(hurried, 0), context.DeadlineExceeded)

	srv = again()
	require.NoError(t, d.Done(within(t)))
	_, js := raw(t, srv)
	require.Equal(t, uint64(1), stored(t, js, "SIGN_REQUESTS"))
}

func TestALaneOutlivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	lost, found := make(chan error, 9), make(chan string, 9)
	srv := queuetest.StartServer(t)
	conn := connect(t, srv, queue.Options{
		OnDisconnect: func(err error) { lost <- err },
		OnReconnect:  func(url string) { found <- url },
	})
	publish(t, conn, 1, "before", 1)
	bulk, event := conn.BulkLane(), conn.EventLane()
	require.NoError(t, one(t, bulk).Done(within(t)))

	bulkGot, eventGot := make(chan []*queue.Delivery), make(chan []*queue.Delivery)
	for lane, got := range map[*queue.Lane]chan []*queue.Delivery{bulk: bulkGot, event: eventGot} {
		go func() {
			d, err := lane.Next(within(t), 8)
			if err != nil {
				t.Log(err)
			}
			got <- d
		}()
	}
	awaitPulls(t, srv, "bulk-01", 1)
	srv = queuetest.Restart(t, srv)
	require.Error(t, <-lost)
	require.Contains(t, <-found, "127.0.0.1")

	other := connect(t, srv, queue.Options{})
	publish(t, other, 1, "after", 1)
	got := <-bulkGot
	require.Len(t, got, 1)
	require.Equal(t, "after", got[0].Request.Batch)
	require.NoError(t, got[0].Done(within(t)))
	_, js := raw(t, srv)
	_, err := js.Publish(within(t), "sign.request.event.x.b", []byte(`{"version":1,"id":"i","batch":"b"}`))
	require.NoError(t, err)
	require.Len(t, <-eventGot, 1)
}

func TestALaneSaysWhenItsConsumersAreGone(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	require.NoError(t, js.DeleteConsumer(within(t), "SIGN_REQUESTS", "event"))
	_, err := conn.EventLane().Next(within(t), 1)
	require.ErrorIs(t, err, queue.ErrNotSetUp)
	conn.Close()
	_, err = conn.BulkLane().Next(within(t), 1)
	require.Error(t, err)
}

func TestWhatCannotBeReadIsDeliveredAsSuch(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{AckWait: never})
	_, js := raw(t, srv)
	lane := conn.BulkLane()
	deliver := func(subject, data string, header map[string]string) *queue.Delivery {
		msg := natsMsg(subject, data, header)
		_, err := js.PublishMsg(within(t), msg)
		require.NoError(t, err)
		d := one(t, lane)
		require.NoError(t, d.Done(within(t)))
		require.Equal(t, data, string(d.Body()))
		return d
	}
	good := `{"version":1,"id":"x","batch":"b"}`

	require.NoError(t, deliver("sign.request.bulk.00.b", good, nil).Err)

	d := deliver("sign.request.bulk.00.b", `{"version":7}`, map[string]string{jetstream.MsgIDHeader: "theirs.3"})
	var later *queue.VersionError
	require.ErrorAs(t, d.Err, &later)
	require.Equal(t, queue.Request{ID: "theirs", Gen: 3, Batch: "b"}, d.Request)

	for _, header := range []string{"Nats-Stream", "Nats-Subject"} {
		d = deliver("sign.request.bulk.00.b", good, map[string]string{header: "x"})
		require.ErrorIs(t, d.Err, queue.ErrForged)
		require.True(t, queue.ValidName(d.Request.ID))
		require.NotEqual(t, "x", d.Request.ID)
	}
	d = deliver("sign.request.bulk.00.other", good, nil)
	require.ErrorContains(t, d.Err, "under the subject of batch")
	require.Equal(t, "other", d.Request.Batch)

	d = deliver("sign.request.bulk.00.Other", "garbage", map[string]string{jetstream.MsgIDHeader: "Theirs.-1"})
	require.Error(t, d.Err)
	require.True(t, queue.ValidName(d.Request.Batch))
	require.True(t, queue.ValidName(d.Request.ID))
	_, err := conn.Record(within(t), queue.Outcome{Batch: d.Request.Batch, ID: d.Request.ID, Verdict: queue.Dead})
	require.NoError(t, err)
	require.NoError(t, conn.Bury(within(t), queue.DeadLetter{Request: d.Request, Body: d.Body()}))
	letter, err := conn.DeadLetter(within(t), d.Request.Batch, d.Request.ID, 0)
	require.NoError(t, err)
	require.Equal(t, "garbage", string(letter.Body))
}

func TestOfAVeryLongMessageTheBeginningIsKept(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	long := strings.Repeat("x", 100<<10)
	_, err := js.Publish(within(t), "sign.request.bulk.00.b", []byte(long))
	require.NoError(t, err)
	d := one(t, conn.BulkLane())
	require.Error(t, d.Err)
	require.Equal(t, long[:64<<10], string(d.Body()))
	require.NoError(t, d.Done(within(t)))
}
