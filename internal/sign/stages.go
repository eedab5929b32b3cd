package sign

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

const instruments = "github.com/signfleet/signfleet/internal/sign"

// StageDuration is the histogram of what images spend their time on. Others
// measure further stages in it.
const StageDuration = "signfleet.stage.duration"

// StageBounds are its bounds, in seconds.
var StageBounds = []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800}

// Timings are what the signing of an image took: reading what it is, making the
// signatures (those of all its manifests together, though they are made side by
// side), and attaching them, which includes their making.
type Timings struct {
	Resolve, Sign, Attach time.Duration
}

// The stages of an image.
type stage int

const (
	stageResolve stage = iota
	stagePolicy
	stageSign
	stageAttach
	stageCount
)

func (s stage) String() string { return [...]string{"resolve", "policy", "sign", "attach"}[s] }

// stages measures and traces them.
type stages struct {
	duration metric.Float64Histogram
	tracer   trace.Tracer // nil where nobody wants spans
	options  [stageCount]metric.MeasurementOption
}

func newStages(meters metric.MeterProvider, tracers trace.TracerProvider) (*stages, error) {
	if meters == nil {
		meters = metricnoop.NewMeterProvider()
	}
	s := &stages{}
	if tracers != nil {
		s.tracer = tracers.Tracer(instruments)
	}
	for at := range s.options {
		s.options[at] = metric.WithAttributeSet(attribute.NewSet(attribute.String("stage", stage(at).String())))
	}
	var err error
	s.duration, err = meters.Meter(instruments).Float64Histogram(StageDuration, metric.WithUnit("s"),
		metric.WithDescription("What an image spends its time on: queue, resolve, policy, sign (one signature), attach (one manifest)."),
		metric.WithExplicitBucketBoundaries(StageBounds...))
	return s, err
}

// watch sums up the time of one image.
type watch struct {
	stages *stages
	spent  [stageCount]atomic.Int64
}

type watchKey struct{}

// watched has what is done with the context count for an image.
func (s *stages) watched(ctx context.Context) (context.Context, *watch) {
	w := &watch{stages: s}
	return context.WithValue(ctx, watchKey{}, w), w
}

// begin begins a stage of the image that the context counts for; its end is told
// how it went.
func begin(ctx context.Context, at stage) (context.Context, func(error)) {
	w, ok := ctx.Value(watchKey{}).(*watch)
	if !ok {
		return ctx, func(error) {}
	}
	var span trace.Span = tracenoop.Span{}
	if w.stages.tracer != nil {
		ctx, span = w.stages.tracer.Start(ctx, at.String())
	}
	began := time.Now()
	return ctx, func(err error) {
		took := time.Since(began)
		w.spent[at].Add(int64(took))
		w.stages.duration.Record(ctx, took.Seconds(), w.stages.options[at])
		if err != nil && span.IsRecording() {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// timings are the sums. The attaching of manifests side by side is not one of
// them: that is measured as a whole.
func (w *watch) timings(attach time.Duration) Timings {
	return Timings{
		Resolve: time.Duration(w.spent[stageResolve].Load()), Sign: time.Duration(w.spent[stageSign].Load()), Attach: attach,
	}
}
