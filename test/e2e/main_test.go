package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
	"github.com/signfleet/signfleet/test/peers/build"
)

// world is what all tests share, because it is dear to make: the binaries, one
// registry without authentication where each test has repositories of its own,
// and one key.
type world struct {
	dir      string // of the binaries
	registry *peers.Registry
	pusher   *peers.Pusher
	key      peers.KeyPair
}

// open makes the world at the first test that asks for it, so that listing
// tests builds nothing.
var open = sync.OnceValues(makeWorld)

// opened is what there is to close.
var opened world

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of a test's time is spent waiting for other processes.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8") // the flag is there, and 8 is a number
	}
	code := m.Run()
	if err := opened.close(); err != nil {
		fmt.Fprintln(os.Stderr, "closing:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func makeWorld() (*world, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	var err error
	if opened.dir, err = os.MkdirTemp("", "signfleet-e2e-"); err != nil {
		return nil, err
	}
	if err := build.Own(ctx, opened.dir, "./cmd/..."); err != nil {
		return nil, err
	}
	if opened.registry, err = peers.StartRegistry(ctx, peers.RegistryOptions{}); err != nil {
		return nil, err
	}
	if opened.pusher, err = peers.NewPusher(opened.registry.Host(), opened.registry.Access()); err != nil {
		return nil, err
	}
	if opened.key, err = peers.GenerateKey(ctx, opened.dir, "correct horse"); err != nil {
		return nil, err
	}
	return &opened, nil
}

func (w *world) close() error {
	var err error
	if w.registry != nil {
		err = w.registry.Close()
	}
	if w.dir != "" {
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return err
}

// shared returns the world.
func shared(t *testing.T) *world {
	t.Helper()
	w, err := open()
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("registry:\n%s", w.registry.Logs())
		}
	})
	return w
}

func (w *world) binary(name string) string { return filepath.Join(w.dir, name) }
