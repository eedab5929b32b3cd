// Package station builds what signs out of settings: the keys, the registry
// client, the signer and the worker loop around them. Both programs build it
// here, so that a submitter without a fleet signs just as a fleet does.
package station

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/telemetry"
	"github.com/signfleet/signfleet/internal/worker"
)

// Station is the registries, and what signs in them at the moment. It is a
// [worker.Signer].
type Station struct {
	Registry *registry.Client

	throttle throttle
	config   Config
	desk     atomic.Pointer[desk]
	worker   atomic.Pointer[worker.Worker] // set by Worker
	tools    sign.Options                  // what signers need beside settings; set by Worker
}

// Config is what a station is built from.
type Config struct {
	Settings config.Signing
	Source   *config.Source
	Stdin    *os.File  // where a passphrase may be asked for
	Prompt   io.Writer // where it is asked
	Log      *zap.Logger
	// Telemetry, when set, has what is done counted and traced.
	Telemetry *telemetry.Telemetry
}

// Defaults are the settings of a station for which nothing is said. maxWait is
// how long an image may wait for its turn: where somebody sits before the
// program, less than in a daemon.
func Defaults(maxWait time.Duration) config.Signing {
	d := worker.DefaultOptions()
	return config.Signing{
		Jobs: d.Jobs, Timeout: d.Timeout, Attempts: d.Attempts, Backoff: d.BackoffMin,
		MaxWait: maxWait, ShutdownGrace: d.ShutdownGrace,
		HostRequests: 16, BreakerFailures: d.BreakerAfter, BreakerPause: d.BreakerFor,
	}
}

// Limits are the limits of a worker loop of that name.
func Limits(s config.Signing, name string) worker.Options {
	o := worker.DefaultOptions()
	o.Name, o.Program = name, Version()
	o.Jobs, o.Timeout, o.Attempts = s.Jobs, s.Timeout, s.Attempts
	o.BackoffMin, o.BackoffMax = s.Backoff, max(o.BackoffMax, s.Backoff)
	o.MaxWait, o.ShutdownGrace = s.MaxWait, s.ShutdownGrace
	o.BreakerAfter, o.BreakerFor = s.BreakerFailures, s.BreakerPause
	return o
}

// New checks the policy, opens the keys and makes the registry client. ctx ends
// the waiting for a passphrase.
func New(ctx context.Context, c Config) (*Station, error) {
	if len(c.Settings.Keys) == 0 {
		return nil, ErrNoKey
	}
	first, err := newDesk(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	access := c.Settings.Registry(c.Source, userAgent(), c.Log)
	if c.Telemetry != nil {
		access.Meters, access.Tracers = c.Telemetry.Meters, c.Telemetry.Spans()
	}
	client, err := newClient(access)
	if err != nil {
		return nil, fmt.Errorf("set up access to registries: %w", err)
	}
	s := &Station{Registry: client.Client, throttle: client, config: c}
	s.desk.Store(first)
	return s, nil
}

// Reload has other settings hold for the images that come from now on: their keys,
// formats, identities, policy and rules. Keys whose files are as they were stay
// open. With an error all stays as it is. It is for after Worker.
func (s *Station) Reload(ctx context.Context, settings config.Signing, source *config.Source) error {
	c := s.config
	c.Settings, c.Source = settings, source
	c.Stdin = nil // nobody sits there to be asked for a passphrase again
	former := s.desk.Load()
	next, err := newDesk(ctx, c, former)
	if err != nil {
		return err
	}
	if err := next.noLaxer(former, settings); err != nil {
		return err
	}
	if err := next.equip(s.tools); err != nil {
		return err
	}
	s.desk.Store(next)
	return nil
}

// Sign signs an image with what the settings say at the moment.
func (s *Station) Sign(ctx context.Context, r sign.Request) (sign.Result, error) {
	return s.desk.Load().Sign(ctx, r)
}

// Worker returns a worker loop on conn that signs at this station, under locks
// of the kind it is given.
func (s *Station) Worker(conn *queue.Conn, o worker.Options, locks sign.Locker) (*worker.Worker, error) {
	s.tools = sign.Options{Registry: s.Registry, Locker: locks, LockTTL: conn.LockTTL(), Log: s.config.Log}
	if reports := s.config.Telemetry; reports != nil {
		s.tools.Meters, s.tools.Tracers = reports.Meters, reports.Spans()
		o.Meters, o.Tracers = reports.Meters, reports.Spans()
	}
	if err := s.desk.Load().equip(s.tools); err != nil {
		return nil, err
	}
	o.Throttle, o.Keys = s.throttle, s
	w, err := worker.New(conn, s, o, s.config.Log)
	if err != nil {
		return nil, err
	}
	s.worker.Store(w)
	return w, nil
}

// Close ends idle connections to registries.
func (s *Station) Close() { s.Registry.Close() }

// Locks fits a locker, of a fleet or of a single process, to what signing asks for.
func Locks[L sign.Lease](lock func(ctx context.Context, name string) (L, error)) sign.Locker {
	return locker[L](lock)
}

type locker[L sign.Lease] func(ctx context.Context, name string) (L, error)

// Lock waits for its turn.
func (l locker[L]) Lock(ctx context.Context, name string) (sign.Lease, error) {
	lease, err := l(ctx, name)
	if err != nil {
		return nil, err // not a lease that is a nil pointer
	}
	return lease, nil
}

func userAgent() string { return "signfleet/" + Version() }

// version is set by the linker where the build knows better than the module
// system: in a checkout.
var version string

// Version is the version that the program was built from.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
