package registry

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// collected is what a meter has counted: by the name of the instrument, and by
// the labels, with counts of histograms and values of counters.
func collected(t *testing.T, reader *sdkmetric.ManualReader) map[string]map[attribute.Set]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	found := make(map[string]map[attribute.Set]float64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			found[m.Name] = make(map[attribute.Set]float64)
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					found[m.Name][point.Attributes] = float64(point.Count)
				}
			case metricdata.Sum[float64]:
				for _, point := range data.DataPoints {
					found[m.Name][point.Attributes] = point.Value
				}
			}
		}
	}
	return found
}

func TestRequestsAreCountedAndTraced(t *testing.T) {
	t.Parallel()
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewSpanRecorder()
	r := registrytest.New(t)
	r.PushManifest(t, "team/app", "v1", "linux/amd64")
	off := false
	c, err := New(Options{
		TLSVerify: &off, Meters: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		Tracers: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	repo, err := c.Repository(r.Host() + "/team/app")
	require.NoError(t, err)
	_, err = repo.Manifest(t.Context(), "v1")
	require.NoError(t, err)
	_, err = repo.Manifest(t.Context(), "absent")
	require.Error(t, err)

	counts := make(map[int64]float64)
	for labels, count := range collected(t, reader)["http.client.request.duration"] {
		status, _ := labels.Value("http.response.status_code")
		address, _ := labels.Value("server.address")
		if status.AsInt64() != 0 { // https was tried first
			require.Equal(t, "127.0.0.1", address.AsString())
		}
		counts[status.AsInt64()] += count
	}
	require.InDelta(t, 1, counts[http.StatusOK], 0)
	require.InDelta(t, 1, counts[http.StatusNotFound], 0)
	var seen []string
	for _, span := range spans.Ended() {
		for _, a := range span.Attributes() {
			if a.Key == "url.full" {
				seen = append(seen, a.Value.AsString())
			}
		}
	}
	require.Contains(t, seen, "http://"+r.Host()+"/v2/team/app/manifests/v1")
}

// What a signed URL lets its reader do is not for everybody who reads traces.
func TestSpansHaveNoSecrets(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	seen, err := newObserver(nil, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	require.NoError(t, err)
	send := &observeTransport{observer: seen, next: roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://user:pa55@h.example/blob?X-Amz-Signature=s3cret", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer t0ken")
	resp, err := send.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Len(t, spans.Ended(), 1)
	text := fmt.Sprintf("%+v %+v", spans.Ended()[0].Attributes(), spans.Ended()[0].Name())
	for _, secret := range []string{"pa55", "s3cret", "t0ken"} {
		require.NotContains(t, text, secret)
	}
}

// However many registries there are, metrics tell few of them apart.
func TestHostsInMetricsAreBounded(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	seen, err := newObserver(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), nil)
	require.NoError(t, err)
	send := &observeTransport{observer: seen, next: roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})}
	for n := range 300 {
		url := fmt.Sprintf("https://h%d.example/v2/", n)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		resp, err := send.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		seen.waited(context.Background(), req.URL.Host, time.Second)
	}
	found := collected(t, reader)
	require.Len(t, found["http.client.request.duration"], maxObservedHosts+1)
	require.Len(t, found["signfleet.throttled.duration"], maxObservedHosts+1)
	others := attribute.NewSet(attribute.String("server.address", otherHosts))
	require.InDelta(t, 300-maxObservedHosts, found["signfleet.throttled.duration"][others], 0.001)
}
