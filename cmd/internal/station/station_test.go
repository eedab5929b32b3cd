package station_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/worker"
)

func TestLimitsAreTheSettings(t *testing.T) {
	t.Parallel()
	o := station.Limits(config.Signing{
		Jobs: 9, Timeout: 9 * time.Second, Attempts: 9, Backoff: 9 * time.Minute,
		MaxWait: 9 * time.Hour, ShutdownGrace: 9 * time.Millisecond,
		BreakerFailures: 8, BreakerPause: 8 * time.Second,
	}, "w1")
	require.NoError(t, o.Validate(), "a first pause longer than the usual longest one")
	require.Equal(t, "w1", o.Name)
	require.Equal(t, []any{9, 9 * time.Second, 9, 9 * time.Minute, 9 * time.Hour, 9 * time.Millisecond, 8, 8 * time.Second},
		[]any{o.Jobs, o.Timeout, o.Attempts, o.BackoffMin, o.MaxWait, o.ShutdownGrace, o.BreakerAfter, o.BreakerFor})
}

func TestDefaultsAreThoseOfTheWorkerLoop(t *testing.T) {
	t.Parallel()
	want := worker.DefaultOptions()
	want.Name, want.Program = "w1", station.Version()
	require.Equal(t, want, station.Limits(station.Defaults(want.MaxWait), "w1"))
}
