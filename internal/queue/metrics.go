package queue

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

const scope = "github.com/signfleet/signfleet/internal/queue"

// lockBounds are of the time that a lock was waited for, in seconds.
var lockBounds = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300}

// instruments are what a connection counts and traces.
type instruments struct {
	sent, consumed metric.Int64Counter
	lockWait       metric.Float64Histogram
	tracer         trace.Tracer
	traced         bool // somebody wants spans

	sentTo, consumedFrom metric.MeasurementOption
}

func newInstruments(o Options, n names) (*instruments, error) {
	if o.Meters == nil {
		o.Meters = metricnoop.NewMeterProvider()
	}
	traced := o.Tracers != nil
	if !traced {
		o.Tracers = tracenoop.NewTracerProvider()
	}
	meter := o.Meters.Meter(scope)
	i := &instruments{tracer: o.Tracers.Tracer(scope), traced: traced}
	var errs [3]error
	i.sent, errs[0] = meter.Int64Counter("messaging.client.sent.messages", metric.WithUnit("{message}"),
		metric.WithDescription("Requests that the server has stored."))
	i.consumed, errs[1] = meter.Int64Counter("messaging.client.consumed.messages", metric.WithUnit("{message}"),
		metric.WithDescription("Requests that were delivered."))
	i.lockWait, errs[2] = meter.Float64Histogram("signfleet.lock.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("What it took to have the lock of an attachment."), metric.WithExplicitBucketBoundaries(lockBounds...))
	about := func(operation string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(semconv.MessagingSystemKey.String("nats"),
			semconv.MessagingDestinationName(n.requests), semconv.MessagingOperationName(operation)))
	}
	i.sentTo, i.consumedFrom = about("publish"), about("fetch")
	return i, errors.Join(errs[:]...)
}

func (i *instruments) published(ctx context.Context) { i.sent.Add(ctx, 1, i.sentTo) }
func (i *instruments) fetched(ctx context.Context, n int) {
	i.consumed.Add(ctx, int64(n), i.consumedFrom)
}
func (i *instruments) locked(ctx context.Context, began time.Time) {
	i.lockWait.Record(ctx, time.Since(began).Seconds())
}

// publishing begins the span of a request that is published, which whoever
// handles it goes on with. Where nobody wants spans it costs nothing.
func (i *instruments) publishing(ctx context.Context, n names, r Request) (context.Context, func(error)) {
	if !i.traced {
		return ctx, func(error) {}
	}
	ctx, span := i.tracer.Start(ctx, "publish "+n.requests, trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingDestinationName(n.requests),
			semconv.MessagingOperationName("publish"), semconv.MessagingOperationTypeSend, semconv.MessagingMessageID(r.ID),
			attribute.String("signfleet.batch", r.Batch), attribute.String("signfleet.image.reference", r.Reference))
	}
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
