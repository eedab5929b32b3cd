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
	"time"

	"github.com/signfleet/signfleet/test/peers/build"
)

// NATS is a nats-server with JetStream in a process of its own, with its store
// in a temporary directory.
type NATS struct {
	dir     string
	port    string // "-1" until the server chose one
	process *process
	logs    *logBuffer
}

// StartNATS starts a server on a free port of 127.0.0.1 and waits until it
// takes clients. Close it.
func StartNATS(ctx context.Context) (*NATS, error) {
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		return nil, err
	}
	n := &NATS{dir: dir, port: "-1", logs: &logBuffer{}}
	if err := n.Start(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// URL returns what clients connect to.
func (n *NATS) URL() string { return "nats://127.0.0.1:" + n.port }

// Logs returns the last output of the process.
func (n *NATS) Logs() string { return n.logs.String() }

// Start starts the process after a Stop or Kill, at the same address and on
// the same store.
func (n *NATS) Start(ctx context.Context) error {
	path, err := build.Pinned(ctx, "nats-server")
	if err != nil {
		return err
	}
	n.logs.reset()
	args := []string{"--addr", "127.0.0.1", "--port", n.port, "--jetstream",
		"--store_dir", filepath.Join(n.dir, "store"), "--ports_file_dir", n.dir}
	if n.process, err = launch(ctx, path, args, os.Environ(), n.logs); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err = n.process.await(ctx, regexp.MustCompile(`(Server is ready)`)); err != nil {
		return err
	}
	return n.readPort(ctx)
}

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
