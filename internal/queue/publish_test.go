package queue_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func TestARequestIsDeliveredAsItWasPublished(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	want := queue.Request{
		Batch: "nightly-1", Seq: 7, Line: "  app:1 <&> \t", Reference: "r.example/app:1", Digest: "sha256:00",
		Platforms: []string{"linux/amd64"}, Timeout: queue.Seconds(290 * time.Millisecond),
		SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Keys: []string{"sha256:11"}, Identity: "r.example/app",
	}.Sealed()
	p := conn.Publisher(2)
	require.NoError(t, p.Publish(within(t), want))
	require.NoError(t, p.Flush(within(t)))

	d := one(t, conn.BulkLane())
	require.NoError(t, d.Err)
	require.Equal(t, want, d.Request)
	require.Equal(t, "bulk", d.Lane)
	require.Equal(t, 1, d.Delivered)
	require.False(t, d.StoredAt.IsZero())
}

func TestPublishingAgainChangesNothing(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	lane := conn.BulkLane()
	publish(t, conn, 0, "b", 3)
	publish(t, conn, 0, "b", 3)
	require.Equal(t, uint64(3), stored(t, js, "SIGN_REQUESTS"))
	for left := 3; left > 0; {
		for _, d := range next(t, lane, 3) {
			require.NoError(t, d.Done(within(t)))
			left--
		}
	}
	publish(t, conn, 0, "b", 3) // ended, and still within the duplicate window
	require.Zero(t, stored(t, js, "SIGN_REQUESTS"))

	again := request("b", 2)
	again.Gen = 1
	p := conn.Publisher(0)
	require.NoError(t, p.Publish(within(t), again))
	require.NoError(t, p.Flush(within(t)))
	d := one(t, lane)
	require.Equal(t, again.ID, d.Request.ID)
	require.Equal(t, 1, d.Request.Gen)
	require.Equal(t, 1, d.Delivered)
}

func TestABatchLargerThanWhatMayBePending(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	publish(t, conn, 0, "b", 3000)
	require.Equal(t, uint64(3000), stored(t, js, "SIGN_REQUESTS"))
}

func TestPublishGoesOnAfterAnOutage(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	p := conn.Publisher(0)
	require.NoError(t, p.Publish(within(t), request("b", 1)))
	require.NoError(t, p.Flush(within(t)))
	again := queuetest.Stop(t, srv)
	require.NoError(t, p.Publish(within(t), request("b", 2)))

	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Flush(hurried), context.DeadlineExceeded)
	require.ErrorIs(t, p.Publish(hurried, request("b", 3)), context.DeadlineExceeded)
	require.Equal(t, 1, p.Accepted())

	srv = again()
	require.NoError(t, p.Publish(within(t), request("b", 3)))
	require.NoError(t, p.Flush(within(t)))
	require.Equal(t, 3, p.Accepted())
	_, js := raw(t, srv)
	require.Equal(t, uint64(3), stored(t, js, "SIGN_REQUESTS"))
}

func TestAFullStreamIsWaitedOut(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	limit(t, js, "SIGN_REQUESTS", 1)
	p := conn.Publisher(0)
	require.NoError(t, p.Publish(within(t), request("b", 1)))
	require.NoError(t, p.Publish(within(t), request("b", 2)))
	hurried, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := p.Flush(hurried)
	require.ErrorIs(t, err, queue.ErrFull)
	require.ErrorContains(t, err, "request 2")
	require.Equal(t, 1, p.Accepted())

	require.NoError(t, one(t, conn.BulkLane()).Done(within(t)))
	require.NoError(t, p.Flush(within(t)))
	require.Equal(t, 2, p.Accepted())
}

func TestPublishRefusesWhatHasNoName(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	for _, batch := range []string{"", "a.b", "*", ">", "UPPER", "two words"} {
		require.ErrorContains(t, conn.Publisher(0).Publish(within(t), request(batch, 1)), "is not a name")
	}
	require.ErrorContains(t, conn.Publisher(0).Publish(within(t), queue.Request{Batch: "b"}), "is not a name")
}

func TestARequestLargerThanTheServerTakes(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	p := conn.Publisher(0)
	large := func(seq, size int) queue.Request {
		r := request("b", seq)
		r.Line = queue.Text(strings.Repeat("x", size))
		return r
	}
	require.NoError(t, p.Publish(within(t), request("b", 1)))
	require.ErrorIs(t, p.Publish(within(t), large(2, 2<<20)), queue.ErrTooLarge)
	require.NoError(t, p.Publish(within(t), request("b", 3)), "the others go on")
	require.NoError(t, p.Flush(within(t)))
	require.Equal(t, uint64(2), stored(t, js, "SIGN_REQUESTS"))

	limitSize(t, js, "SIGN_REQUESTS", 4<<10)
	require.NoError(t, p.Publish(within(t), large(4, 8<<10)))
	err := p.Flush(within(t))
	require.ErrorIs(t, err, queue.ErrTooLarge)
	require.ErrorContains(t, err, "request 4")
}

func TestTraceContextTravelsInHeaders(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	nc, _ := raw(t, srv)
	wire := make(chan *nats.Msg, 1)
	_, err := nc.ChanSubscribe("sign.request.>", wire)
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	p := conn.Publisher(0)
	require.NoError(t, p.Publish(trace.ContextWithSpanContext(within(t), span), request("b", 1)))
	require.NoError(t, p.Flush(within(t)))
	require.Equal(t, []string{"00-01000000000000000000000000000000-0200000000000000-01"}, (<-wire).Header["traceparent"])

	got := trace.SpanContextFromContext(one(t, conn.BulkLane()).Context(t.Context()))
	require.Equal(t, span.TraceID(), got.TraceID())
	require.Equal(t, span.SpanID(), got.SpanID())
	require.True(t, got.IsRemote())
}
