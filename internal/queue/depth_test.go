package queue_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// observed is what a meter tells: values of counters and gauges by name and one
// label's value.
func observed(t *testing.T, reader *sdkmetric.ManualReader) map[string]map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	found := make(map[string]map[string]int64)
	put := func(name string, labels attribute.Set, value int64) {
		if found[name] == nil {
			found[name] = make(map[string]int64)
		}
		key := ""
		for _, label := range []attribute.Key{"stream", "consumer"} {
			if v, ok := labels.Value(label); ok {
				key = v.AsString()
			}
		}
		found[name][key] = value
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, point := range data.DataPoints {
					put(m.Name, point.Attributes, point.Value)
				}
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					put(m.Name, point.Attributes, point.Value)
				}
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					put(m.Name, point.Attributes, int64(point.Count))
				}
			}
		}
	}
	return found
}

func TestDepthIsTold(t *testing.T) {
	t.Parallel()
	srv := queuetest.StartServer(t)
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	conn := queuetest.Connect(t, srv, queue.Options{Meters: meters, Partitions: 2})
	require.NoError(t, conn.Observe(meters))
	publisher := conn.Publisher(1)
	for seq := range 3 {
		require.NoError(t, publisher.Publish(t.Context(), queue.Request{Batch: "b", Seq: seq + 1, Reference: "r.example/a:1", Platforms: []string{string(rune('a' + seq))}}.Sealed()))
	}
	require.NoError(t, publisher.Flush(t.Context()))
	got, err := conn.BulkLane().Next(t.Context(), 1)
	require.NoError(t, err)
	require.Len(t, got, 1)
	lease, err := conn.Locker("w1").Lock(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, lease.Unlock())

	found := observed(t, reader)
	require.Equal(t, map[string]int64{"": 1}, found["signfleet.queue.connected"])
	require.Equal(t, map[string]int64{"requests": 3, "outcomes": 0, "dead": 0}, found["signfleet.stream.messages"])
	require.Equal(t, map[string]int64{"bulk-00": 0, "bulk-01": 2, "event": 0}, found["signfleet.consumer.pending"])
	require.Equal(t, map[string]int64{"bulk-00": 0, "bulk-01": 1, "event": 0}, found["signfleet.consumer.unacknowledged"])
	require.Equal(t, map[string]int64{"": 3}, found["messaging.client.sent.messages"])
	require.Equal(t, map[string]int64{"": 1}, found["messaging.client.consumed.messages"])
	require.Equal(t, map[string]int64{"": 1}, found["signfleet.lock.wait.duration"])
	require.NoError(t, conn.Ready(t.Context()))

	queuetest.Stop(t, srv)
	require.Eventually(t, func() bool { return conn.Connected() != nil }, 30*time.Second, 10*time.Millisecond)
	require.ErrorContains(t, conn.Ready(t.Context()), "not connected")
	found = observed(t, reader)
	require.Equal(t, map[string]int64{"": 0}, found["signfleet.queue.connected"])
	require.Empty(t, found["signfleet.stream.messages"], "nothing is known of it")
}

func TestAWorkerIsNotReadyWithoutItsConsumers(t *testing.T) {
	t.Parallel()
	srv := queuetest.StartServer(t)
	conn := queuetest.Connect(t, srv, queue.Options{})
	nc, err := nats.Connect(srv.ClientURL())
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.NoError(t, js.DeleteConsumer(t.Context(), "SIGN_REQUESTS", "bulk-07"))
	hungUp, hangUp := context.WithCancel(t.Context())
	hangUp()
	require.ErrorContains(t, conn.Ready(hungUp), "bulk-07", "who does not wait spoils nothing for others")
	require.ErrorContains(t, conn.Ready(t.Context()), "bulk-07")
}
