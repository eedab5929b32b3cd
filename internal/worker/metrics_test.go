package worker_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/worker"
)

// counted is what a meter has counted, of counters: what is not 0, by name and
// the labels' values in the order of their names.
func counted(t *testing.T, reader *sdkmetric.ManualReader) map[string]map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	found := make(map[string]map[string]int64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			values := make(map[string]int64)
			put := func(labels attribute.Set, value int64) {
				var words []string
				for _, label := range labels.ToSlice() {
					words = append(words, label.Value.String())
				}
				if value != 0 {
					values[strings.Join(words, " ")] = value
				}
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					put(point.Attributes, point.Value)
				}
			case metricdata.Gauge[int64]:
				for _, point := range data.DataPoints {
					put(point.Attributes, point.Value)
				}
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					put(point.Attributes, int64(point.Count))
				}
			}
			found[m.Name] = values
		}
	}
	return found
}

func TestImagesAreCountedTracedAndLogged(t *testing.T) {
	t.Parallel()
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewSpanRecorder()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{Tracers: tracers})
	o := options("w1")
	o.Meters, o.Tracers = meters, tracers
	core, logs := observer.New(zap.DebugLevel)
	ctx, root := tracers.Tracer("t").Start(t.Context(), "submit")
	publisher := conn.Publisher(0)
	for i, reference := range []string{"r.example/good:1", "r.example/gone:1", "r.example/flaky:1"} {
		require.NoError(t, publisher.Publish(ctx, queue.Request{Batch: "b", Seq: i + 1, Reference: reference}.Sealed()))
	}
	require.NoError(t, publisher.Flush(ctx))
	root.End()

	failed := false
	w, err := worker.New(conn, signerFunc(func(_ context.Context, r sign.Request) (sign.Result, error) {
		switch {
		case strings.Contains(r.Reference, "gone"):
			return sign.Result{}, &registry.Error{Status: 404}
		case strings.Contains(r.Reference, "flaky") && !failed:
			failed = true
			return sign.Result{}, &registry.Error{Status: 409}
		}
		s := signed(r)
		s.Signed[0].Format = "tag"
		s.Timings = sign.Timings{Resolve: 1, Sign: 2, Attach: 3}
		return s, nil
	}), o, zap.New(core))
	require.NoError(t, err)
	running, drain := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(running) }()
	awaitOutcomes(t, conn, "b", 3)
	drain()
	require.NoError(t, <-ended)

	found := counted(t, reader)
	require.Equal(t, map[string]int64{"bulk signed": 2, "not-found bulk dead": 1}, found["signfleet.images"])
	require.Equal(t, map[string]int64{"success": 2, "not-found failure": 1, "conflict failure": 1}, found["signfleet.attempts"])
	require.Equal(t, map[string]int64{"false tag": 2}, found["signfleet.signatures"])
	require.Equal(t, map[string]int64{"bulk": 1}, found["signfleet.redeliveries"])
	require.Equal(t, map[string]int64{"signed": 2, "dead": 1}, found["signfleet.image.duration"])
	require.Equal(t, map[string]int64{"queue": 3}, found["signfleet.stage.duration"])
	require.Equal(t, map[string]int64{"bulk": 4}, found["signfleet.slots.limit"])
	require.Empty(t, found["signfleet.slots.used"], "none is left")
	require.Equal(t, map[string]int64{"": 1}, found["signfleet.draining"])
	for name, values := range found {
		for labels := range values {
			require.NotContains(t, labels, "r.example", name)
		}
	}

	lines := make(map[string]map[string]any)
	for _, line := range logs.FilterMessageSnippet("image ").FilterField(zap.String("batch", "b")).All() {
		reference := line.ContextMap()["reference"].(string) //nolint:forcetypeassert // a test may panic
		require.NotContains(t, lines, reference, "one line each")
		require.Equal(t, worker.ImageLogger, line.LoggerName)
		lines[reference] = line.ContextMap()
	}
	require.Len(t, lines, 3)
	for _, key := range []string{"digest", "outcome", "attempts", "took", "queued", "resolve", "sign", "attach", "batch", "id", "trace_id"} {
		require.Contains(t, lines["r.example/good:1"], key)
	}
	require.EqualValues(t, 2, lines["r.example/flaky:1"]["attempts"])
	require.Equal(t, "not-found", lines["r.example/gone:1"]["class"])

	deliveries := 0
	for _, span := range spans.Ended() {
		require.Equal(t, root.SpanContext().TraceID(), span.SpanContext().TraceID(), span.Name())
		if span.Name() == "process bulk" {
			deliveries++
		}
	}
	require.Equal(t, 4, deliveries)
	require.Equal(t, root.SpanContext().TraceID().String(), lines["r.example/good:1"]["trace_id"])
}
