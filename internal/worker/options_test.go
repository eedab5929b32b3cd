package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOptionsValidate(t *testing.T) {
	t.Parallel()
	valid := DefaultOptions()
	valid.Name = "w1"
	require.NoError(t, valid.Validate())
	for name, spoil := range map[string]func(*Options){
		"name":             func(o *Options) { o.Name = "" },
		"jobs":             func(o *Options) { o.Jobs = 257 },
		"event-jobs":       func(o *Options) { o.EventJobs = -1 },
		"attempts":         func(o *Options) { o.Attempts = 0 },
		"backoff":          func(o *Options) { o.BackoffMin = 2 * o.BackoffMax },
		"jitter":           func(o *Options) { o.Jitter = 1.1 },
		"timeout":          func(o *Options) { o.Timeout = 0 },
		"max-wait":         func(o *Options) { o.MaxWait = -1 },
		"max-deaths":       func(o *Options) { o.MaxDeaths = -1 },
		"breaker-failures": func(o *Options) { o.BreakerAfter = 0 },
		"breaker-pause":    func(o *Options) { o.BreakerFor = -1 },
		"slow-after":       func(o *Options) { o.SlowAfter = 0 },
		"pause-wait":       func(o *Options) { o.PauseWait = 0 },
		"announce-every":   func(o *Options) { o.AnnounceEvery = 11 * time.Second },
		"heartbeat":        func(o *Options) { o.Heartbeat = 0 },
		"newer versions":   func(o *Options) { o.NewerWait = 0 },
		"probes":           func(o *Options) { o.ProbeMax = o.ProbeMin / 2 },
		"key-patience":     func(o *Options) { o.KeyPatience = -1 },
		"shutdown-grace":   func(o *Options) { o.ShutdownGrace = -1 },
	} {
		o := valid
		spoil(&o)
		require.ErrorContains(t, o.Validate(), name)
	}
}
