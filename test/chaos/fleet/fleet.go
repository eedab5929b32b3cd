// Package fleet is a fleet to be tormented: sign-worker processes, the
// nats-server or cluster of three that they share, a registry behind a proxy
// that spoils requests, and the submissions of sign-submit processes.
//
// It starts, kills, stops and heals them, says what it did and when, and takes
// note of what must not happen of itself, such as a worker that ends without
// being told to. It does not know whether a batch came out right.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/signfleet/signfleet/test/peers"
)

// Options say what a fleet is made of.
type Options struct {
	// Binaries is the directory of sign-worker and sign-submit, Dir the one for
	// all that the fleet writes.
	Binaries, Dir string
	Workers, Jobs int
	// Keys is how many signing keys there are; workers have them in turns.
	Keys int
	// Cluster asks for three nats-servers, and three replicas of all streams.
	Cluster bool
	// AckWait is that of the queue, which a test need not wait half a minute for.
	AckWait time.Duration
	// WorkerFlags are given to each worker beside those of the fleet.
	WorkerFlags []string
}

// Fleet is a running fleet. Close it.
type Fleet struct {
	options  Options
	began    time.Time
	registry *peers.Registry
	proxy    *peers.Proxy
	faults   *Faults
	nats     *peers.NATS        // nil in a cluster
	cluster  *peers.NATSCluster // nil for a single server
	conn     *queueView
	keys     []Key
	workers  []*Worker

	mu       sync.Mutex
	events   *os.File
	mishaps  []string
	programs []*peers.Program // of sign-submit
	logs     []*os.File       // theirs
}

// Start starts a fleet and waits until all its workers serve.
func Start(ctx context.Context, o Options) (*Fleet, error) {
	f := &Fleet{options: o, began: time.Now()}
	if err := f.start(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Fleet) start(ctx context.Context) error {
	var err error
	if err := os.MkdirAll(filepath.Join(f.options.Dir, "home", "run"), 0o700); err != nil {
		return err
	}
	if f.events, err = os.Create(f.path("events.log")); err != nil {
		return err
	}
	for i := range f.options.Keys {
		key, err := makeKey(f.options.Dir, fmt.Sprintf("key-%d", i))
		if err != nil {
			return err
		}
		f.keys = append(f.keys, key)
	}
	if f.registry, err = peers.StartRegistry(ctx, peers.RegistryOptions{}); err != nil {
		return err
	}
	if f.proxy, err = peers.StartProxy(f.registry.Host(), f.registry.Access()); err != nil {
		return err
	}
	f.faults = &Faults{}
	f.proxy.SetFault(f.faults.choose)
	if f.options.Cluster {
		f.cluster, err = peers.StartNATSCluster(ctx, peers.NATSOptions{})
	} else {
		f.nats, err = peers.StartNATS(ctx)
	}
	if err != nil {
		return err
	}
	if err := f.setup(ctx); err != nil {
		return err
	}
	if f.conn, err = newQueueView(f.NATSURL()); err != nil {
		return err
	}
	if err := f.conn.trace(f.path("trace.log")); err != nil {
		return err
	}
	for i := range f.options.Workers {
		w, err := f.newWorker(ctx, i)
		if err != nil {
			return err
		}
		f.workers = append(f.workers, w)
	}
	for _, w := range f.workers {
		if err := w.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close kills all that still runs and forgets what was stored; the logs stay.
func (f *Fleet) Close() error {
	var errs []error
	for _, w := range f.workers {
		errs = append(errs, w.close())
	}
	f.mu.Lock()
	programs, logs := f.programs, f.logs
	f.mu.Unlock()
	for i, p := range programs {
		errs = append(errs, p.Kill(), logs[i].Close())
	}
	if f.conn != nil {
		errs = append(errs, f.conn.close())
	}
	if f.proxy != nil {
		f.proxy.Close()
	}
	if f.registry != nil {
		errs = append(errs, os.WriteFile(f.path("registry.log"), []byte(f.registry.Logs()), 0o600), f.registry.Close())
	}
	if f.nats != nil {
		errs = append(errs, os.WriteFile(f.path("nats.log"), []byte(f.nats.Logs()), 0o600), f.nats.Close())
	}
	if f.cluster != nil {
		errs = append(errs, os.WriteFile(f.path("nats.log"), []byte(f.cluster.Logs()), 0o600), f.cluster.Close())
	}
	if f.events != nil {
		errs = append(errs, f.events.Close())
	}
	return errors.Join(errs...)
}

// Log notes an event of the scenario.
func (f *Fleet) Log(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = fmt.Fprintf(f.events, "%s %7.2fs %s\n", time.Now().UTC().Format("15:04:05.000"), time.Since(f.began).Seconds(), fmt.Sprintf(format, args...))
}

// mishap notes what must not happen of itself.
func (f *Fleet) mishap(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	f.Log("MISHAP: %s", what)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mishaps = append(f.mishaps, what)
}

// Mishaps are what happened and must not.
func (f *Fleet) Mishaps() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.mishaps...)
}

// Keys are the keys that workers sign with.
func (f *Fleet) Keys() []Key { return f.keys }

// Workers are the workers, running or not.
func (f *Fleet) Workers() []*Worker { return f.workers }

// Faults is what is done to requests for the registry.
func (f *Fleet) Faults() *Faults { return f.faults }

// Registry is the registry itself, Proxy what all but the harness sees of it.
func (f *Fleet) Registry() *peers.Registry { return f.registry }

// Proxy stands in front of the registry.
func (f *Fleet) Proxy() *peers.Proxy { return f.proxy }

// NATS is the single server; nil in a cluster.
func (f *Fleet) NATS() *peers.NATS { return f.nats }

// Cluster are the three servers; nil where there is one.
func (f *Fleet) Cluster() *peers.NATSCluster { return f.cluster }

// NATSURL is where the queue is.
func (f *Fleet) NATSURL() string {
	if f.cluster != nil {
		return f.cluster.URL()
	}
	return f.nats.URL()
}

// Heal brings back all that a scenario may have left broken.
func (f *Fleet) Heal(ctx context.Context) error {
	f.faults.Heal()
	var errs []error
	if f.nats != nil && !f.nats.Running() {
		errs = append(errs, f.nats.Start(ctx))
	}
	if f.cluster != nil {
		for _, server := range f.cluster.Servers() {
			if !server.Running() {
				errs = append(errs, server.Start(ctx))
			}
		}
	}
	if !f.registry.Running() {
		errs = append(errs, f.registry.Start(ctx))
	}
	for _, w := range f.workers {
		w.link.Refuse(false)
		w.link.Resume()
		if w.stopped {
			errs = append(errs, w.Continue())
		}
		if !w.Running() {
			errs = append(errs, w.Start(ctx))
		}
	}
	return errors.Join(errs...)
}

func (f *Fleet) path(name string) string { return filepath.Join(f.options.Dir, name) }

// env has nothing of the environment of the tests.
func (f *Fleet) env() []string {
	home := f.path("home")
	return []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "LANG=C.UTF-8",
		"XDG_STATE_HOME=" + filepath.Join(home, "state"), "XDG_RUNTIME_DIR=" + filepath.Join(home, "run"),
		"XDG_CONFIG_HOME=" + filepath.Join(home, ".config"), "DOCKER_CONFIG=" + filepath.Join(home, ".docker"),
	}
}

func (f *Fleet) binary(name string) string { return filepath.Join(f.options.Binaries, name) }
