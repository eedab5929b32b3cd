package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/worker"
	"github.com/signfleet/signfleet/test/peers"
)

// memoryOfFleet runs sign-submit with a long list, publishing and following, and
// tells the most memory it had.
func memoryOfFleet(ctx context.Context, server *peers.NATS, out io.Writer, lines int) error {
	if lines == 0 {
		return nil
	}
	conn, err := connect(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close()
	limits := worker.DefaultOptions()
	limits.Name, limits.Jobs, limits.EventJobs = "bench", slots, 0
	w, err := worker.New(conn, noSigner{}, limits, zap.NewNop())
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	group, working := errgroup.WithContext(working)
	group.Go(func() error { return w.Run(working) })
	group.Go(func() error {
		defer stop()
		return submitAndWeigh(ctx, out, "submission to a fleet", "registry.example.org", lines, "--nats-url", server.URL())
	})
	return group.Wait()
}

// memoryAlone runs sign-submit with a long list and no fleet, against a registry
// that has every image and forgets what it is given.
func memoryAlone(ctx context.Context, out io.Writer, lines int) error {
	if lines == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	_, private, err := newKey(dir)
	if err != nil {
		return err
	}
	registry := startForgetful()
	defer registry.Close()
	return submitAndWeigh(ctx, out, "submission that signs by itself", strings.TrimPrefix(registry.URL, "http://"), lines,
		"--sigstore-key", private, "--tls-verify=false", "--skip-login", "--insecure-policy", "--confirm-writes", "never",
		"--state-dir", filepath.Join(dir, "state"), "--jobs", "16", "--arch", "", "--os", "")
}

func newKey(dir string) (public, private string, err error) {
	privatePEM, publicPEM, err := sign.GenerateKey(nil)
	if err != nil {
		return "", "", err
	}
	public, private = filepath.Join(dir, "key.pub"), filepath.Join(dir, "key")
	return public, private, errors.Join(os.WriteFile(public, publicPEM, 0o600), os.WriteFile(private, privatePEM, 0o600))
}

// submitAndWeigh builds sign-submit, runs it and tells its largest resident set.
func submitAndWeigh(ctx context.Context, out io.Writer, what, registry string, lines int, args ...string) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	program := filepath.Join(dir, "sign-submit")
	build := exec.CommandContext(ctx, "go", "build", "-tags", "containers_image_openpgp", "-o", program, "./cmd/sign-submit")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build sign-submit: %w: %s", err, said)
	}
	list := filepath.Join(dir, "images.txt")
	if err := writeList(list, registry, lines); err != nil {
		return err
	}
	submit := exec.CommandContext(ctx, program, append([]string{"--file", list, "--failed", filepath.Join(dir, "failed.txt")}, args...)...)
	submit.Env = append(os.Environ(), "COSIGN_PASSWORD=")
	began := time.Now()
	said, err := submit.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	usage, ok := submit.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return errors.New("the largest resident set is not known on this system")
	}
	resident := float64(usage.Maxrss) * 1024
	if runtime.GOOS == "darwin" {
		resident = float64(usage.Maxrss)
	}
	_, _ = fmt.Fprintf(out, "%s\t%d lines\tat most %.0f MiB\t%s\n", what, lines, resident/(1<<20), time.Since(began).Round(time.Second))
	return nil
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
