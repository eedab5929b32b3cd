package worker

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

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

const scope = "github.com/signfleet/signfleet/internal/worker"

// wholeBounds are of the time that an image takes, in seconds.
var wholeBounds = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600, 1800}

// instruments are what a worker counts and traces. Their labels are from closed
// lists: verdicts, classes, lanes, formats.
type instruments struct {
	images       metric.Int64Counter
	signatures   metric.Int64Counter
	attempts     metric.Int64Counter
	redeliveries metric.Int64Counter
	whole        metric.Float64Histogram
	stage        metric.Float64Histogram
	processing   metric.Float64Histogram
	used, limit  metric.Int64UpDownCounter
	draining     metric.Int64Gauge
	tracer       trace.Tracer
}

func newInstruments(meters metric.MeterProvider, tracers trace.TracerProvider) (*instruments, error) {
	if meters == nil {
		meters = metricnoop.NewMeterProvider()
	}
	if tracers == nil {
		tracers = tracenoop.NewTracerProvider()
	}
	meter := meters.Meter(scope)
	var errs []error
	counter := func(name, unit, what string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
		return c
	}
	seconds := func(name, what string, bounds []float64) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what), metric.WithExplicitBucketBoundaries(bounds...))
		errs = append(errs, err)
		return h
	}
	slots := func(name, what string) metric.Int64UpDownCounter {
		c, err := meter.Int64UpDownCounter(name, metric.WithUnit("{slot}"), metric.WithDescription(what))
		errs = append(errs, err)
		return c
	}
	i := &instruments{
		images:       counter("signfleet.images", "{image}", "Requests that ended, by outcome; dead ones by class."),
		signatures:   counter("signfleet.signatures", "{signature}", "Signatures that images have, by format; already: from before."),
		attempts:     counter("signfleet.attempts", "{attempt}", "Attempts at images; failed ones by class."),
		redeliveries: counter("signfleet.redeliveries", "{delivery}", "Requests that were delivered before."),
		whole:        seconds("signfleet.image.duration", "From the delivery of a request to its recorded outcome.", wholeBounds),
		stage:        seconds(sign.StageDuration, "What an image spends its time on: queue, resolve, policy, sign (one signature), attach (one manifest).", sign.StageBounds),
		processing:   seconds("messaging.process.duration", "From a delivery to its end, whatever that is.", wholeBounds),
		used:         slots("signfleet.slots.used", "Images in work."),
		limit:        slots("signfleet.slots.limit", "Images that may be in work at once."),
		tracer:       tracers.Tracer(scope),
	}
	var err error
	i.draining, err = meter.Int64Gauge("signfleet.draining", metric.WithDescription("1 once the worker finishes what it has and takes no more."))
	return i, errors.Join(append(errs, err)...)
}

// begin has the counters there before there is something to count: who watches
// their increase would miss the first.
func (i *instruments) begin(ctx context.Context, lanes []lane) {
	for _, from := range lanes {
		in := metric.WithAttributes(attribute.String("lane", from.name))
		i.limit.Add(ctx, int64(from.jobs), in)
		i.used.Add(ctx, 0, in)
		i.redeliveries.Add(ctx, 0, in)
		for _, verdict := range []queue.Verdict{queue.Signed, queue.AlreadySigned, queue.Skipped, queue.Cancelled} {
			i.images.Add(ctx, 0, in, metric.WithAttributes(attribute.String("outcome", string(verdict))))
		}
		for _, class := range classes {
			i.images.Add(ctx, 0, in, metric.WithAttributes(attribute.String("outcome", string(queue.Dead)), attribute.String("class", class)))
		}
	}
	i.attempts.Add(ctx, 0, metric.WithAttributes(attribute.String("result", "success")))
	for _, class := range classes {
		i.attempts.Add(ctx, 0, failedAttempt(class))
	}
	i.draining.Record(ctx, 0)
}

// classes are all there are.
var classes = []string{
	InvalidRequest, NotFound, DigestMismatch, Unauthorized, Denied, Immutable, UnsupportedMediaType, PolicyRejected, Poison,
	Timeout, RateLimited, RegistryUnavailable, Network, KeyUnavailable, Conflict, Internal,
}

func failedAttempt(class string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("result", "failure"), attribute.String("class", class))
}

func (i *instruments) attempted(ctx context.Context, failedClass string) {
	if failedClass != "" {
		i.attempts.Add(ctx, 1, failedAttempt(failedClass))
		return
	}
	i.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("result", "success")))
}

// delivered tells of a request that has come.
func (i *instruments) delivered(ctx context.Context, j *job, now time.Time) {
	if j.delivered > 1 {
		i.redeliveries.Add(ctx, 1, metric.WithAttributes(attribute.String("lane", j.lane)))
		return
	}
	j.waited = max(0, now.Sub(j.storedAt))
	i.stage.Record(ctx, j.waited.Seconds(), metric.WithAttributes(attribute.String("stage", "queue")))
}

// ended tells of an image that has its outcome.
func (i *instruments) ended(ctx context.Context, j *job, o queue.Outcome) {
	attributes := []attribute.KeyValue{attribute.String("outcome", string(o.Verdict))}
	i.whole.Record(ctx, o.FinishedAt.Sub(o.StartedAt).Seconds(), metric.WithAttributes(attributes...))
	attributes = append(attributes, attribute.String("lane", j.lane))
	if o.Verdict == queue.Dead {
		attributes = append(attributes, attribute.String("class", known(o.Class)))
	}
	i.images.Add(ctx, 1, metric.WithAttributes(attributes...))
	for _, s := range o.Digests {
		i.signatures.Add(ctx, 1, metric.WithAttributes(attribute.String("format", knownFormat(s.Format)), attribute.Bool("already", s.Already)))
	}
}

// known is a class of the closed list: one that is read from the queue may be
// anybody's.
func known(class string) string {
	for _, one := range classes {
		if one == class {
			return class
		}
	}
	return Internal
}

// knownFormat is a format of the closed list.
func knownFormat(format string) string {
	switch sign.Format(format) {
	case sign.FormatTag, sign.FormatReferrer:
		return format
	}
	return "other"
}

// The attributes of a request in spans. Its image is named there, and nowhere
// in metrics.
const (
	attributeReference = attribute.Key("signfleet.image.reference")
	attributeDigest    = attribute.Key("signfleet.image.digest")
	attributeOutcome   = attribute.Key("signfleet.outcome")
	attributeClass     = attribute.Key("signfleet.class")
	attributeAttempts  = attribute.Key("signfleet.attempts")
	attributeBatch     = attribute.Key("signfleet.batch")
)

// process begins the span of a delivery, below that of whoever published it.
func (i *instruments) process(ctx context.Context, j *job) (context.Context, trace.Span) {
	ctx, span := i.tracer.Start(ctx, "process "+j.lane, trace.WithSpanKind(trace.SpanKindConsumer))
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationTypeProcess,
			semconv.MessagingOperationName("process"), semconv.MessagingMessageID(j.request.ID),
			attributeReference.String(j.request.Reference), attributeBatch.String(j.request.Batch))
	}
	return ctx, span
}

// processed tells of the end of a delivery, whatever it was.
func (i *instruments) processed(ctx context.Context, j *job, took time.Duration) {
	i.processing.Record(ctx, took.Seconds(), metric.WithAttributes(semconv.MessagingSystemKey.String("nats"),
		semconv.MessagingOperationName("process"), attribute.String("lane", j.lane)))
}

// concluded tells the span of a delivery how its request ended, or why it comes again.
func concluded(ctx context.Context, o queue.Outcome) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attributeDigest.String(o.Digest), attributeOutcome.String(string(o.Verdict)), attributeAttempts.Int(o.Attempts))
	if o.Verdict == queue.Dead {
		span.SetAttributes(attributeClass.String(o.Class))
		span.SetStatus(codes.Error, o.Error)
	}
}

// traceID is that of the trace that a context belongs to; empty when there is none.
func traceID(ctx context.Context) string {
	if of := trace.SpanContextFromContext(ctx); of.HasTraceID() {
		return of.TraceID().String()
	}
	return ""
}

// observeBreakers has the registries that are left alone counted when somebody
// asks, as many as there are told apart at all.
func (w *Worker) observeBreakers(meters metric.MeterProvider) error {
	if meters == nil {
		return nil
	}
	_, err := meters.Meter(scope).Int64ObservableGauge("signfleet.registry.open", metric.WithUnit("{registry}"),
		metric.WithDescription("1 for each registry that is left alone because it fails."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			open := w.inWork.told()
			for _, h := range open[:min(len(open), maxObserved)] {
				o.Observe(1, metric.WithAttributes(semconv.ServerAddress(h.Host)))
			}
			return nil
		}))
	return err
}

// maxObserved bounds the registries that are told of at once.
const maxObserved = 100
