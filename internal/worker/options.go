package worker

import (
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options are the limits of a worker. DefaultOptions are those of the daemon.
type Options struct {
	// Name tells workers apart: in outcomes, in the ledger and in logs.
	Name string
	// Program is the version of the program, for operators to see.
	Program string
	// Jobs is how many images of the bulk lane are signed at once, EventJobs
	// how many of the event lane beside them; 0 serves no events.
	Jobs      int
	EventJobs int
	// Attempts is how often signing is tried before a request is dead.
	Attempts int
	// The pause before attempt n+1 is BackoffMin doubled n-1 times, at most
	// BackoffMax, give or take the share Jitter.
	BackoffMin time.Duration
	BackoffMax time.Duration
	Jitter     float64
	// Timeout bounds an attempt of a request that names no timeout itself.
	Timeout time.Duration
	// MaxWait bounds the waiting for locks, rates and registries that are left
	// alone, over all deliveries.
	MaxWait time.Duration
	// MaxDeaths is how many workers may die over a request before it is poison.
	MaxDeaths int
	// BreakerAfter is after how many failures in a row a registry is left alone,
	// and BreakerFor for how long, before an image is tried there again.
	BreakerAfter int
	BreakerFor   time.Duration
	// SlowAfter is how long a registry may answer none of the images at it
	// before it may hold no more than half of a lane's slots. Where images take
	// long as a rule, it may be silent for longer.
	SlowAfter time.Duration
	// PauseWait is for how long a request is given back whose registry an
	// operator has paused: at most so long after it goes on.
	PauseWait time.Duration
	// AnnounceEvery is how often the worker says that it is there. It must be
	// well below the 15 s after which it is forgotten.
	AnnounceEvery time.Duration
	// Heartbeat is how often the queue is told that a request is worked on. It
	// must be well below the queue's ack wait.
	Heartbeat time.Duration
	// ShutdownGrace is how long a drain waits for what is in flight.
	ShutdownGrace time.Duration
	// NewerWait is how long a message of a later version is left for a newer
	// worker, and NewerPatience how old it may get that way.
	NewerWait     time.Duration
	NewerPatience time.Duration
	// Keys, when set, are held by somebody else. While they are away they are
	// tried after ProbeMin, and then after twice as long each time, up to ProbeMax.
	// When they are away for longer than KeyPatience the worker ends; 0 waits for
	// them for ever.
	Keys        Keys
	ProbeMin    time.Duration
	ProbeMax    time.Duration
	KeyPatience time.Duration
	// Throttle, when set, is told what the rest of the fleet has at each registry,
	// and asked what this worker has there.
	Throttle Throttle
	// Meters and Tracers count and trace what is done; nil ones nothing.
	Meters  metric.MeterProvider
	Tracers trace.TracerProvider
}

// DefaultOptions are the limits of the daemon, without a name.
func DefaultOptions() Options {
	return Options{
		Jobs:          4,
		EventJobs:     1,
		Attempts:      4,
		BackoffMin:    time.Second,
		BackoffMax:    time.Minute,
		Jitter:        0.2,
		Timeout:       10 * time.Minute,
		MaxWait:       time.Hour,
		MaxDeaths:     5,
		BreakerAfter:  5,
		BreakerFor:    30 * time.Second,
		SlowAfter:     5 * time.Second,
		PauseWait:     10 * time.Second,
		AnnounceEvery: 5 * time.Second,
		Heartbeat:     10 * time.Second,
		ShutdownGrace: 30 * time.Second,
		NewerWait:     time.Minute,
		NewerPatience: time.Hour,
		ProbeMin:      time.Second,
		ProbeMax:      30 * time.Second,
	}
}

// Validate names the first limit that cannot be obeyed.
func (o Options) Validate() error {
	switch {
	case o.Name == "":
		return fmt.Errorf("worker: it has no name")
	case o.Jobs < 1 || o.Jobs > 256:
		return fmt.Errorf("jobs: %d is not between 1 and 256", o.Jobs)
	case o.EventJobs < 0 || o.EventJobs > 256:
		return fmt.Errorf("event-jobs: %d is not between 0 and 256", o.EventJobs)
	case o.Attempts < 1:
		return fmt.Errorf("attempts: %d is less than 1", o.Attempts)
	case o.BackoffMin <= 0 || o.BackoffMax < o.BackoffMin:
		return fmt.Errorf("backoff: from %s to %s is no range", o.BackoffMin, o.BackoffMax)
	case o.Jitter < 0 || o.Jitter > 1:
		return fmt.Errorf("jitter: %v is not between 0 and 1", o.Jitter)
	case o.Timeout <= 0:
		return fmt.Errorf("timeout: %s is not a time to sign in", o.Timeout)
	case o.MaxWait <= 0:
		return fmt.Errorf("max-wait: %s is not a time to wait", o.MaxWait)
	case o.MaxDeaths < 0:
		return fmt.Errorf("max-deaths: %d is negative", o.MaxDeaths)
	case o.BreakerAfter < 1:
		return fmt.Errorf("breaker-failures: %d is less than 1", o.BreakerAfter)
	case o.BreakerFor <= 0:
		return fmt.Errorf("breaker-pause: %s is not a time to leave a registry alone", o.BreakerFor)
	case o.SlowAfter <= 0:
		return fmt.Errorf("slow-after: %s is not a time to answer in", o.SlowAfter)
	case o.PauseWait <= 0:
		return fmt.Errorf("pause-wait: %s is not a time to wait", o.PauseWait)
	case o.AnnounceEvery <= 0 || o.AnnounceEvery > 10*time.Second:
		return fmt.Errorf("announce-every: %s is not above 0 and at most 10s, a worker is forgotten after 15s", o.AnnounceEvery)
	case o.Heartbeat <= 0:
		return fmt.Errorf("heartbeat: %s is no interval", o.Heartbeat)
	case o.NewerWait <= 0 || o.NewerPatience < 0:
		return fmt.Errorf("newer versions: left for %s until they are %s old, which is no time to wait", o.NewerWait, o.NewerPatience)
	case o.ProbeMin <= 0 || o.ProbeMax < o.ProbeMin:
		return fmt.Errorf("probes of the keys: after %s to %s is no range", o.ProbeMin, o.ProbeMax)
	case o.KeyPatience < 0:
		return fmt.Errorf("key-patience: %s is negative", o.KeyPatience)
	case o.ShutdownGrace < 0:
		return fmt.Errorf("shutdown-grace: %s is negative", o.ShutdownGrace)
	}
	return nil
}
