// Package telemetry is how the programs report about themselves: logs, metrics,
// traces and health.
//
// It decides the shape of a log line, where metrics and spans go, and how a
// program is asked whether it is well. It does not know what is worth a line, a
// metric or a span: the rooms have instruments of their own, made from the
// providers that they are given.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	prometheusexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// Options say what a program is, and which of its metrics are to be had where.
type Options struct {
	// Service, Version and Instance are what its metrics and spans say that they
	// come from.
	Service, Version, Instance string
	// Prometheus keeps the metrics for whoever comes and asks: see [Server].
	Prometheus bool
	// Log is told when something cannot be exported. OpenTelemetry has one place
	// for that in a process, so the last telemetry that was started has it.
	Log *zap.Logger
}

// Telemetry are the providers of a program's metrics and spans. Where nothing
// asks for either, they cost next to nothing.
type Telemetry struct {
	Meters  metric.MeterProvider
	Tracers trace.TracerProvider

	registry *prometheus.Registry // nil without Prometheus
	shutdown []func(context.Context) error
}

// shutdownPatience bounds the sending of what is left at the end: a collector
// that is away must not keep a program.
const shutdownPatience = 5 * time.Second

// Start makes the providers. What leaves the program by itself, and to where, is
// said by the environment variables of OpenTelemetry
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/),
// and without any of them nothing does.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	if err := checkEnvironment(os.Getenv); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	// What OpenTelemetry says of variables that it cannot read has them in it.
	otel.SetLogger(logr.Discard())
	if o.Log != nil {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Warn("telemetry", zap.Error(err)) }))
	}
	t := &Telemetry{Meters: metricnoop.NewMeterProvider(), Tracers: tracenoop.NewTracerProvider()}
	from, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(o.attributes()...))
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if err := t.startMetrics(ctx, o, from); err != nil {
		return nil, errors.Join(fmt.Errorf("telemetry: metrics, as %s: %w", said("METRICS"), err), t.Shutdown(ctx))
	}
	if err := t.startTraces(ctx, from); err != nil {
		return nil, errors.Join(fmt.Errorf("telemetry: traces, as %s: %w", said("TRACES"), err), t.Shutdown(ctx))
	}
	return t, nil
}

// checkEnvironment refuses what could not be read of variables that may hold
// secrets: their values are not told.
func checkEnvironment(getenv func(string) string) error {
	for _, signal := range []string{"", "TRACES_", "METRICS_"} {
		name := "OTEL_EXPORTER_OTLP_" + signal + "ENDPOINT"
		if text := getenv(name); text != "" {
			if u, err := url.Parse(text); err != nil || u.Host == "" {
				return fmt.Errorf("%s is no URL: write http://collector:4318", name)
			}
		}
		name = "OTEL_EXPORTER_OTLP_" + signal + "HEADERS"
		for pair := range strings.SplitSeq(getenv(name), ",") {
			key, value, ok := strings.Cut(pair, "=")
			if _, err := url.PathUnescape(value); strings.TrimSpace(pair) != "" && (!ok || strings.TrimSpace(key) == "" || err != nil) {
				return fmt.Errorf("%s is no list of name=value: separate them by commas, and write %%25 for %% and the like", name)
			}
		}
	}
	return nil
}

// attributes are what everything that is exported says of the program. A name
// that the environment gives to the service counts more.
func (o Options) attributes() []attribute.KeyValue {
	attributes := []attribute.KeyValue{semconv.ServiceVersion(o.Version), semconv.ServiceInstanceID(o.Instance)}
	if os.Getenv("OTEL_SERVICE_NAME") == "" && !strings.Contains(os.Getenv("OTEL_RESOURCE_ATTRIBUTES"), "service.name=") {
		attributes = append(attributes, semconv.ServiceName(o.Service))
	}
	return attributes
}

func (t *Telemetry) startMetrics(ctx context.Context, o Options, from *resource.Resource) error {
	options := []sdkmetric.Option{sdkmetric.WithResource(from)}
	if o.Prometheus {
		t.registry = prometheus.NewRegistry()
		t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		reader, err := prometheusexporter.New(
			prometheusexporter.WithRegisterer(t.registry),
			prometheusexporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
			prometheusexporter.WithoutScopeInfo(),
		)
		if err != nil {
			return err
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	// What Prometheus asks for is served beside health, not on a port of its own.
	if asked("METRICS") && os.Getenv("OTEL_METRICS_EXPORTER") != "prometheus" {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return err
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	if len(options) > 1 {
		provider := sdkmetric.NewMeterProvider(options...)
		t.Meters, t.shutdown = provider, append(t.shutdown, provider.Shutdown)
	}
	return nil
}

func (t *Telemetry) startTraces(ctx context.Context, from *resource.Resource) error {
	if !asked("TRACES") {
		return nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(from))
	t.Tracers, t.shutdown = provider, append(t.shutdown, provider.Shutdown)
	return nil
}

// Spans are where spans go; nil where nobody asks for any, so that what is done
// many times need not make them.
func (t *Telemetry) Spans() trace.TracerProvider {
	if _, wanted := t.Tracers.(*sdktrace.TracerProvider); !wanted {
		return nil
	}
	return t.Tracers
}

// asked reports whether a variable of OpenTelemetry asks for the export of a
// signal. Its specification exports to a collector on this machine where nothing
// is said; most machines have none.
func asked(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// said is what the environment says of how a signal is exported.
func said(signal string) string {
	return fmt.Sprintf("OTEL_%s_EXPORTER=%q and OTEL_EXPORTER_OTLP_PROTOCOL=%q say", signal,
		os.Getenv("OTEL_"+signal+"_EXPORTER"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"))
}

// Shutdown sends what is left, for a few seconds at most.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	var errs []error
	for _, end := range t.shutdown {
		errs = append(errs, end(ctx))
	}
	t.shutdown = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("telemetry: send what is left: %w", err)
	}
	return nil
}
