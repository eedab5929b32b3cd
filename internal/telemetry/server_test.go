package telemetry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/telemetry"
)

// ask is what a server answers at a path.
func ask(t *testing.T, s *telemetry.Server, path string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Address()+path, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, string(body)
}

func listen(t *testing.T, o telemetry.ServerOptions) *telemetry.Server {
	t.Helper()
	o.Log = zap.NewNop()
	s, err := telemetry.Listen(t.Context(), "127.0.0.1:0", o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func TestHealth(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	s := listen(t, telemetry.ServerOptions{Checks: map[string]telemetry.Check{
		"keys": func(context.Context) error { return nil },
		"nats": func(context.Context) error {
			if away.Load() {
				return errors.New("not connected")
			}
			return nil
		},
	}})
	status, text := ask(t, s, telemetry.ReadyPath)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "keys: ok\nnats: ok\n", text)

	away.Store(true)
	status, text = ask(t, s, telemetry.ReadyPath)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "keys: ok\nnats: not connected\n", text)
	status, _ = ask(t, s, telemetry.LivePath)
	require.Equal(t, http.StatusOK, status, "to be restarted would not help")

	for _, path := range []string{"/", telemetry.MetricsPath, "/debug/pprof/", "/debug/pprof/cmdline"} {
		status, _ = ask(t, s, path)
		require.Equal(t, http.StatusNotFound, status, path)
	}
}

func TestProfilesAreServedWhereTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	s := listen(t, telemetry.ServerOptions{Pprof: true})
	for path, want := range map[string]int{
		"/debug/pprof/": http.StatusOK, "/debug/pprof/goroutine?debug=1": http.StatusOK, "/debug/pprof/symbol": http.StatusOK,
		"/debug/pprof/cmdline": http.StatusNotFound, // it may have a password in it
	} {
		status, _ := ask(t, s, path)
		require.Equal(t, want, status, path)
	}
}

// The names of OpenTelemetry become those of Prometheus.
func TestMetricsForPrometheus(t *testing.T) {
	t.Parallel()
	reports, err := telemetry.Start(t.Context(), telemetry.Options{Service: "sign-worker", Version: "v1", Instance: "w1", Prometheus: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, reports.Shutdown(t.Context())) }()
	counter, err := reports.Meters.Meter("m").Float64Counter("signfleet.throttled.duration", metric.WithUnit("s"))
	require.NoError(t, err)
	counter.Add(t.Context(), 1.5)
	s := listen(t, telemetry.ServerOptions{Metrics: reports})
	status, text := ask(t, s, telemetry.MetricsPath)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, "\nsignfleet_throttled_duration_seconds_total 1.5\n")
	require.Contains(t, text, "go_goroutines ")
	require.Contains(t, text, "process_cpu_seconds_total ")
	require.Regexp(t, `target_info\{.*service_instance_id="w1".*service_name="sign-worker".*service_version="v1".*\} 1`, text)
}

func TestAddressThatIsTaken(t *testing.T) {
	t.Parallel()
	s := listen(t, telemetry.ServerOptions{})
	_, err := telemetry.Listen(t.Context(), s.Address(), telemetry.ServerOptions{Log: zap.NewNop()})
	require.ErrorContains(t, err, s.Address())
}
