package telemetry_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/signfleet/signfleet/internal/telemetry"
)

// The environment belongs to the whole process: no test that sets it runs beside
// others.

func start(t *testing.T) *telemetry.Telemetry {
	t.Helper()
	reports, err := telemetry.Start(t.Context(), telemetry.Options{Service: "sign-worker", Version: "v1", Instance: "w1"})
	require.NoError(t, err)
	return reports
}

func TestNothingLeavesUnasked(t *testing.T) {
	for name, value := range map[string]string{
		"": "", "OTEL_TRACES_EXPORTER": "none", "OTEL_SDK_DISABLED": "true", "OTEL_METRICS_EXPORTER": "prometheus",
	} {
		t.Run(name, func(t *testing.T) {
			if name != "" {
				t.Setenv(name, value)
			}
			if name == "OTEL_SDK_DISABLED" {
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			}
			reports := start(t)
			require.Nil(t, reports.Spans())
			_, span := reports.Tracers.Tracer("t").Start(t.Context(), "work")
			require.False(t, span.IsRecording())
			require.NoError(t, reports.Shutdown(t.Context()))
		})
	}
}

func TestUnknownExporterIsAMistake(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "pigeon")
	_, err := telemetry.Start(t.Context(), telemetry.Options{Service: "sign-worker"})
	require.ErrorContains(t, err, "traces")
	require.ErrorContains(t, err, "pigeon")
}

// got gets the names of the spans that a collector was sent.
type got struct {
	collector.UnimplementedTraceServiceServer
	names chan string
}

func (g got) tell(req *collector.ExportTraceServiceRequest) {
	for _, resource := range req.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				g.names <- span.GetName()
			}
		}
	}
}

func TestSpansOverGRPC(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := got{names: make(chan string, 10)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, service{g})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		require.NoError(t, <-served)
	}()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	reports := start(t)
	_, span := reports.Spans().Tracer("t").Start(t.Context(), "work")
	span.End()
	require.NoError(t, reports.Shutdown(t.Context()))
	require.Equal(t, "work", <-g.names)
}

// A collector that is away keeps nobody for long, and is told.
func TestCollectorThatIsAway(t *testing.T) {
	silent := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent }))
	defer server.Close()
	defer close(silent)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", server.URL)
	reports := start(t)
	_, span := reports.Spans().Tracer("t").Start(t.Context(), "work")
	span.End()
	require.Error(t, reports.Shutdown(t.Context()))
}

type service struct{ got }

func (s service) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.tell(req)
	return &collector.ExportTraceServiceResponse{}, nil
}

// Variables that cannot be read may hold secrets, which nobody is told.
func TestVariablesThatCannotBeRead(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer s3cret%zz", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "s3cret",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:s3cret%zz@h:4318", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "::s3cret",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			_, err := telemetry.Start(t.Context(), telemetry.Options{Service: "sign-worker"})
			require.ErrorContains(t, err, name)
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}
