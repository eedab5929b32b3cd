package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/signfleet/signfleet/test/peers/build"
)

// NATSOptions are the choices for a nats-server.
type NATSOptions struct {
	// SyncInterval is how often what was stored is fsynced: a duration or
	// "always"; "" is the server's default.
	SyncInterval string
	// MaxFileStore bounds what JetStream stores, in bytes; 0 is the server's default.
	MaxFileStore int64
	// MaxPayload bounds a message, in bytes; 0 is the server's default.
	MaxPayload int
	// User and Password, when set, are the one client that may connect.
	User, Password string
}

// NATS is a nats-server with JetStream in a process of its own, with its store
// in a temporary directory.
type NATS struct {
	dir     string
	port    string // "-1" until the server chose one
	options NATSOptions
	cluster *clusterPlace // nil for a server that stands alone
	process *process
	logs    *logBuffer
}

// StartNATS starts a server on a free port of 127.0.0.1 and waits until it
// takes clients. Close it.
func StartNATS(ctx context.Context) (*NATS, error) { return StartNATSWith(ctx, NATSOptions{}) }

// StartNATSWith is StartNATS with choices.
func StartNATSWith(ctx context.Context, o NATSOptions) (*NATS, error) {
	n, err := newNATS(o)
	if err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func newNATS(o NATSOptions) (*NATS, error) {
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		return nil, err
	}
	return &NATS{dir: dir, port: "-1", options: o, logs: &logBuffer{}}, nil
}

// URL returns what clients connect to.
func (n *NATS) URL() string { return "nats://127.0.0.1:" + n.port }

// Address returns its "host:port".
func (n *NATS) Address() string { return "127.0.0.1:" + n.port }

// Logs returns the last output of the process.
func (n *NATS) Logs() string { return n.logs.String() }

// Start starts the process after a Stop or Kill, at the same address and on
// the same store.
func (n *NATS) Start(ctx context.Context) error {
	path, err := build.Pinned(ctx, "nats-server")
	if err != nil {
		return err
	}
	config, err := n.writeConfig()
	if err != nil {
		return fmt.Errorf("configuring nats-server: %w", err)
	}
	n.logs.reset()
	if n.process, err = launch(ctx, path, []string{"--config", config}, os.Environ(), n.logs); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err = n.process.await(ctx, regexp.MustCompile(`(Server is ready)`)); err != nil {
		return err
	}
	return n.readPort(ctx)
}

// writeConfig writes the configuration as JSON, which the server reads too.
func (n *NATS) writeConfig() (string, error) {
	store := map[string]any{"store_dir": filepath.Join(n.dir, "store")}
	if n.options.SyncInterval != "" {
		store["sync_interval"] = n.options.SyncInterval
	}
	if n.options.MaxFileStore != 0 {
		store["max_file_store"] = n.options.MaxFileStore
	}
	config := map[string]any{
		"listen":         "127.0.0.1:" + n.port,
		"ports_file_dir": n.dir,
		"jetstream":      store,
	}
	if n.options.MaxPayload != 0 {
		config["max_payload"] = n.options.MaxPayload
	}
	if n.options.User != "" {
		config["authorization"] = map[string]any{"user": n.options.User, "password": n.options.Password}
	}
	if c := n.cluster; c != nil {
		config["server_name"] = c.name
		config["cluster"] = map[string]any{"name": "test", "listen": c.address, "routes": c.routes}
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(n.dir, "nats.conf")
	return path, os.WriteFile(path, data, 0o600)
}

// Pause stops the process as it is, with its connections open, until Continue.
func (n *NATS) Pause() error { return n.process.signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (n *NATS) Continue() error { return n.process.signal(syscall.SIGCONT) }

// Running reports whether there is a process.
func (n *NATS) Running() bool { return n.process != nil && n.process.running() }

// Stop ends the process in good order; the store stays.
func (n *NATS) Stop() error { return n.process.stop() }

// Kill ends the process with SIGKILL; the store stays.
func (n *NATS) Kill() error { return n.process.kill() }

// Restart is Stop and Start.
func (n *NATS) Restart(ctx context.Context) error {
	if err := n.Stop(); err != nil {
		return err
	}
	return n.Start(ctx)
}

// Close ends the process and removes the store.
func (n *NATS) Close() error {
	var err error
	if n.process != nil {
		err = n.process.kill()
	}
	return errors.Join(err, os.RemoveAll(n.dir))
}

// readPort learns the port from the file that the server writes once it listens.
func (n *NATS) readPort(ctx context.Context) error {
	path := filepath.Join(n.dir, fmt.Sprintf("nats-server_%d.ports", n.process.cmd.Process.Pid))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if port, ok := portIn(path); ok {
			n.port = port
			return nil
		}
		select {
		case <-tick.C:
		case <-n.process.done:
			return fmt.Errorf("nats-server ended at once:\n%s", n.logs)
		case <-ctx.Done():
			return fmt.Errorf("nats-server is not ready: %w\n%s", context.Cause(ctx), n.logs)
		}
	}
}

// portIn says false while the file is missing or half written.
func portIn(path string) (string, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	var ports struct {
		NATS []string `json:"nats"`
	}
	if json.Unmarshal(data, &ports) != nil || len(ports.NATS) == 0 {
		return "", false
	}
	u, err := url.Parse(ports.NATS[0])
	if err != nil {
		return "", false
	}
	_, port, err := net.SplitHostPort(u.Host)
	return port, err == nil
}
