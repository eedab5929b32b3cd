package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/worker"
	"github.com/signfleet/signfleet/test/peers"
)

// memoryOfFleet runs sign-submit with a long list, publishing and following, and
// tells the most memory it had.
func memoryOfFleet(ctx context.Context, server *peers.NATS, programs string, lines int) ([]Figure, error) {
	if lines == 0 {
		return nil, nil
	}
	conn, err := connect(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	limits := worker.DefaultOptions()
	limits.Name, limits.Jobs, limits.EventJobs = "bench", slots, 0
	w, err := worker.New(conn, noSigner{}, limits, zap.NewNop())
	if err != nil {
		return nil, err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	group, working := errgroup.WithContext(working)
	group.Go(func() error { return w.Run(working) })
	var figures []Figure
	group.Go(func() (err error) {
		defer stop()
		figures, err = submitAndWeigh(ctx, programs, "submission to a fleet", "registry.example.org", lines, "--nats-url", server.URL())
		return err
	})
	return figures, group.Wait()
}

// memoryAlone runs sign-submit with a long list and no fleet, against a registry
// that has every image and forgets what it is given.
func memoryAlone(ctx context.Context, programs string, lines int) ([]Figure, error) {
	if lines == 0 {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	private, err := newKey(dir)
	if err != nil {
		return nil, err
	}
	registry := startForgetful()
	defer registry.Close()
	return submitAndWeigh(ctx, programs, "submission that signs by itself", strings.TrimPrefix(registry.URL, "http://"), lines,
		"--sigstore-key", private, "--tls-verify=false", "--skip-login", "--insecure-policy", "--confirm-writes", "never",
		"--state-dir", filepath.Join(dir, "state"), "--jobs", "16", "--arch", "", "--os", "")
}

func newKey(dir string) (private string, err error) {
	privatePEM, _, err := sign.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	private = filepath.Join(dir, "key")
	return private, os.WriteFile(private, privatePEM, 0o600)
}

// submitAndWeigh runs sign-submit and tells its largest resident set.
func submitAndWeigh(ctx context.Context, programs, what, registry string, lines int, args ...string) ([]Figure, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	list := filepath.Join(dir, "images.txt")
	if err := writeList(list, registry, lines); err != nil {
		return nil, err
	}
	submit := command(ctx, dir, filepath.Join(programs, "sign-submit"),
		append([]string{"--file", list, "--failed", filepath.Join(dir, "failed.txt")}, args...)...)
	submit.Env = append(submit.Env, "COSIGN_PASSWORD=")
	used, err := runToEnd(submit)
	if err != nil {
		return nil, err
	}
	of := fmt.Sprintf("%d lines", lines)
	return []Figure{
		{what + ", most memory", of, float64(used.peak) / (1 << 20), unitMiB},
		{what, of, used.wall.Seconds(), "s"},
	}, nil
}

func writeList(path, registry string, lines int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for n := range lines {
		if _, err := fmt.Fprintf(f, "%s/project-%03d/team/image-%07d:v1.2.3\n", registry, n%500, n); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
