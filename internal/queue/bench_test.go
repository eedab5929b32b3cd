package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

func BenchmarkPublish(b *testing.B) {
	_, conn := newQueue(b, queue.Options{})
	p := conn.Publisher(0)
	ctx := b.Context()
	b.ReportAllocs()
	seq := 0
	for b.Loop() {
		seq++
		if err := p.Publish(ctx, request("b", seq)); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, p.Flush(ctx))
}

// BenchmarkConsumeRecordDone is the queue's share of one image: a delivery, its
// outcome and the confirmed end, one after the other.
func BenchmarkConsumeRecordDone(b *testing.B) {
	_, conn := newQueue(b, queue.Options{})
	p := conn.Publisher(0)
	lane := conn.BulkLane()
	ctx := b.Context()
	b.ReportAllocs()
	var got []*queue.Delivery
	published, done := 0, 0
	for b.Loop() {
		if len(got) == 0 {
			if done == published {
				b.StopTimer()
				for range 1024 {
					published++
					require.NoError(b, p.Publish(ctx, request("b", published)))
				}
				require.NoError(b, p.Flush(ctx))
				b.StartTimer()
			}
			var err error
			if got, err = lane.Next(ctx, 64); err != nil {
				b.Fatal(err)
			}
		}
		d := got[0]
		got = got[1:]
		done++
		if _, err := conn.Record(ctx, outcome(d.Request, queue.Signed)); err != nil {
			b.Fatal(err)
		}
		if err := d.Done(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
