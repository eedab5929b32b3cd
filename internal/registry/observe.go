package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

const instruments = "github.com/signfleet/signfleet/internal/registry"

// maxObservedHosts bounds the hosts that metrics tell apart: their names come
// with the images. The others share one.
const (
	maxObservedHosts = 100
	otherHosts       = "other"
)

// requestBounds are of the time of one request, in seconds: those of the
// semantic conventions for HTTP.
var requestBounds = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60}

// observer counts and traces what is sent to registries, and how long it waits
// to be.
type observer struct {
	duration  metric.Float64Histogram
	throttled metric.Float64Counter
	tracer    trace.Tracer // nil where nobody wants spans

	sets sync.Map // of metric.MeasurementOption, by what they say

	mu    sync.Mutex
	hosts map[string]bool
}

func newObserver(meters metric.MeterProvider, tracers trace.TracerProvider) (*observer, error) {
	if meters == nil {
		meters = metricnoop.NewMeterProvider()
	}
	o := &observer{hosts: make(map[string]bool)}
	if tracers != nil {
		o.tracer = tracers.Tracer(instruments)
	}
	meter := meters.Meter(instruments)
	var err error
	o.duration, err = meter.Float64Histogram("http.client.request.duration", metric.WithUnit("s"),
		metric.WithDescription("Requests to registries and their token servers, until the head of the answer."),
		metric.WithExplicitBucketBoundaries(requestBounds...))
	if err != nil {
		return nil, err
	}
	o.throttled, err = meter.Float64Counter("signfleet.throttled.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that requests waited for their turn at a registry."))
	return o, err
}

// outcome is what is told of a request. It is a key: there are few of them.
type outcome struct {
	method, host string
	status       int
	failure      string
}

// attributes name an outcome as the semantic conventions for HTTP do.
func (o *observer) attributes(r outcome) metric.MeasurementOption {
	if known, ok := o.sets.Load(r); ok {
		return known.(metric.MeasurementOption)
	}
	attributes := serverAttributes(r.host)
	if r.method != "" {
		attributes = append(attributes, semconv.HTTPRequestMethodKey.String(r.method))
	}
	if r.status != 0 {
		attributes = append(attributes, semconv.HTTPResponseStatusCode(r.status))
	}
	if r.failure != "" {
		attributes = append(attributes, semconv.ErrorTypeKey.String(r.failure))
	}
	set := metric.WithAttributeSet(attribute.NewSet(attributes...))
	o.sets.Store(r, set)
	return set
}

// serverAttributes name a host, with its port where it has one of its own.
func serverAttributes(host string) []attribute.KeyValue {
	address, portText, err := net.SplitHostPort(host)
	if err != nil {
		return []attribute.KeyValue{semconv.ServerAddress(host)}
	}
	port, _ := strconv.Atoi(portText)
	return []attribute.KeyValue{semconv.ServerAddress(address), semconv.ServerPort(port)}
}

// bounded is a host as metrics call it. One gets a place of its own when it has
// answered: names of hosts that are none would take all of them.
func (o *observer) bounded(host string, answered bool) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hosts[host] {
		return host
	}
	if !answered || len(o.hosts) >= maxObservedHosts {
		return otherHosts
	}
	o.hosts[host] = true
	return host
}

// waited tells of the time that a request waited for its turn.
func (o *observer) waited(ctx context.Context, host string, d time.Duration) {
	if o == nil || d < time.Millisecond || !o.throttled.Enabled(ctx) {
		return // it took no longer than taking a slot does
	}
	o.throttled.Add(ctx, d.Seconds(), o.attributes(outcome{host: o.bounded(host, false)}))
}

// observeTransport is the layer that sees each request as it is sent.
type observeTransport struct {
	observer *observer
	next     http.RoundTripper
}

func (t *observeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, span := t.observer.start(req)
	if span.IsRecording() {
		req = req.WithContext(ctx)
	}
	began := time.Now()
	resp, err := t.next.RoundTrip(req)
	t.observer.sent(ctx, req, span, resp, err, time.Since(began))
	return resp, err
}

// start begins the span of a request. It is not told to the registry, which may
// be anybody's.
func (o *observer) start(req *http.Request) (context.Context, trace.Span) {
	if o.tracer == nil {
		return req.Context(), tracenoop.Span{}
	}
	ctx, span := o.tracer.Start(req.Context(), req.Method, trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		span.SetAttributes(semconv.HTTPRequestMethodKey.String(req.Method), semconv.URLFull(redactURL(req.URL)))
		span.SetAttributes(serverAttributes(req.URL.Host)...)
	}
	return ctx, span
}

// sent tells how a request went.
func (o *observer) sent(ctx context.Context, req *http.Request, span trace.Span, resp *http.Response, err error, took time.Duration) {
	told := outcome{method: methodName(req.Method), host: req.URL.Host}
	switch {
	case err != nil:
		told.failure = failureName(ctx, err)
	default:
		if told.status = resp.StatusCode; told.status >= http.StatusBadRequest {
			told.failure = strconv.Itoa(told.status)
		}
	}
	if span.IsRecording() {
		if told.status != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(told.status))
		}
		// What is not there is asked for all the time.
		if told.failure != "" && told.status != http.StatusNotFound {
			span.SetAttributes(semconv.ErrorTypeKey.String(told.failure))
			span.SetStatus(codes.Error, told.failure)
		}
	}
	span.End()
	if o.duration.Enabled(ctx) {
		told.host = o.bounded(told.host, err == nil)
		if told.status != 0 && http.StatusText(told.status) == "" {
			told.status, told.failure = 0, "_OTHER" // a number that a registry has made up
		}
		o.duration.Record(ctx, took.Seconds(), o.attributes(told))
	}
}

// methodName bounds the methods that are told apart.
func methodName(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return method
	}
	return "_OTHER"
}

// failureName is the kind of a failure to get an answer, of which there are few.
func failureName(ctx context.Context, err error) string {
	var network net.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil:
		return "cancelled"
	case isRefused(err):
		return "connection_refused"
	case errors.As(err, &certificate):
		return "certificate"
	case errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.As(err, &network):
		return "network"
	}
	return "_OTHER"
}
