// Package station builds what signs out of settings: the keys, the registry
// client, the signer and the worker loop around them. Both programs build it
// here, so that a submitter without a fleet signs just as a fleet does.
package station

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/policy"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/worker"
)

// Station is the keys and the registries they sign in.
type Station struct {
	Keys     []*sign.Key
	Registry *registry.Client

	replaced []*sign.PublicKey
	throttle throttle
	settings config.Signing
	log      *zap.Logger
}

// Config is what a station is built from.
type Config struct {
	Settings config.Signing
	Source   *config.Source
	Stdin    *os.File  // where a passphrase may be asked for
	Prompt   io.Writer // where it is asked
	Log      *zap.Logger
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

// ErrNoKey says that no key was named.
var ErrNoKey = errors.New("no key to sign with: name one with --sigstore-key")

// New checks the policy, opens the keys, once for the life of the process, and
// makes the registry client. ctx ends the waiting for a passphrase.
func New(ctx context.Context, c Config) (*Station, error) {
	s := c.Settings
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if len(s.Keys) == 0 {
		return nil, ErrNoKey
	}
	if err := checkPolicy(s, c.Log); err != nil {
		return nil, err
	}
	replaced, err := replacedKeys(ctx, c)
	if err != nil {
		return nil, err
	}
	keys, err := openKeys(ctx, c, replaced)
	if err != nil {
		return nil, err
	}
	client, err := newClient(s.Registry(c.Source, "signfleet/"+Version(), c.Log))
	if err != nil {
		return nil, fmt.Errorf("set up access to registries: %w", err)
	}
	return &Station{Keys: keys, Registry: client.Client, replaced: replaced, throttle: client, settings: s, log: c.Log}, nil
}

// checkPolicy refuses a policy that asks for more than can be evaluated.
func checkPolicy(s config.Signing, log *zap.Logger) error {
	if s.InsecurePolicy {
		return nil
	}
	file := s.Policy
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "" // the system's policy is left
		}
		if file, err = policy.Find(policy.DefaultFiles(home)); err != nil {
			return err
		}
	}
	if file == "" {
		log.Info("no policy file anywhere: no image is held to one before it is signed")
		return nil
	}
	return policy.Check(file)
}

// Worker returns a worker loop on conn that signs at this station, under locks
// of the kind it is given.
func (s *Station) Worker(conn *queue.Conn, o worker.Options, locks sign.Locker) (*worker.Worker, error) {
	asked, err := s.settings.Sign()
	if err != nil {
		return nil, err
	}
	asked.Registry, asked.Locker, asked.LockTTL, asked.Log = s.Registry, locks, conn.LockTTL(), s.log
	asked.Keys, asked.Replaced = s.Keys, s.replaced
	signer, err := sign.New(asked)
	if err != nil {
		return nil, err
	}
	o.Throttle = s.throttle
	return worker.New(conn, signer, o, s.log)
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
