package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
	"github.com/signfleet/signfleet/test/peers/build"
)

// binaries are built for the first test that runs one.
var binaries = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "signfleet-deploy-")
	if err != nil {
		return "", err
	}
	built = dir
	return dir, build.Own(ctx, dir, "./cmd/...")
})

// built is what there is to remove.
var built string

func TestMain(m *testing.M) {
	code := m.Run()
	if err := os.RemoveAll(built); err != nil {
		fmt.Fprintln(os.Stderr, "removing binaries:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// fleet is a registry, a key, and the programs as those who run a fleet use them.
type fleet struct {
	t        *testing.T
	url      func(role string) string
	more     func(role string) []string // of the environment; nil for none
	dir      string                     // of the binaries
	home     string
	registry *peers.Registry
	pusher   *peers.Pusher
	key      peers.KeyPair
	started  []*peers.Program
}

// outputs are what the programs have written so far.
func (f *fleet) outputs() []string {
	var outputs []string
	for _, p := range f.started {
		outputs = append(outputs, p.Output())
	}
	return outputs
}

func newFleet(t *testing.T, url func(role string) string) *fleet {
	t.Helper()
	f := &fleet{t: t, url: url, home: t.TempDir()}
	var err error
	f.dir, err = binaries()
	require.NoError(t, err)
	f.registry, err = peers.StartRegistry(t.Context(), peers.RegistryOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.registry.Close()) })
	f.pusher, err = peers.NewPusher(f.registry.Host(), f.registry.Access())
	require.NoError(t, err)
	f.key, err = peers.GenerateKey(t.Context(), f.home, "correct horse")
	require.NoError(t, err)
	return f
}

// push puts an image into the registry and returns its reference.
func (f *fleet) push(path string) string {
	f.t.Helper()
	image, err := f.pusher.Single(f.t.Context(), path, "linux/amd64")
	require.NoError(f.t, err)
	return image.Reference
}

// list writes an image list and returns its path.
func (f *fleet) list(name string, lines ...string) string {
	f.t.Helper()
	path := filepath.Join(f.home, name)
	require.NoError(f.t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	return path
}

// start starts a program with the credentials of a role.
func (f *fleet) start(role, program string, args ...string) *peers.Program {
	f.t.Helper()
	env := []string{"HOME=" + f.home, "PATH=" + os.Getenv("PATH"), "SIGNFLEET_NATS_URL=" + f.url(role)}
	if f.more != nil {
		env = append(env, f.more(role)...)
	}
	p, err := peers.StartProgram(f.t.Context(), peers.Command{Path: filepath.Join(f.dir, program), Args: args, Dir: f.home, Env: env})
	require.NoError(f.t, err)
	f.started = append(f.started, p)
	f.t.Cleanup(func() {
		require.NoError(f.t, p.Kill())
		if f.t.Failed() {
			f.t.Logf("%s %s, as %s:\n%s", program, strings.Join(args, " "), role, p.Output())
		}
	})
	return p
}

// run runs a program to its end and returns what it wrote.
func (f *fleet) run(wantCode int, role, program string, args ...string) string {
	f.t.Helper()
	return f.end(wantCode, f.start(role, program, args...))
}

func (f *fleet) end(wantCode int, p *peers.Program) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeoutCause(f.t.Context(), patience, errors.New("waited too long for the end of the program"))
	defer cancel()
	code, err := p.Wait(ctx)
	require.NoError(f.t, err, p.Output())
	require.Equal(f.t, wantCode, code, p.Output())
	return p.Output()
}

// setup lays out the streams, with limits that any disk has room for.
func (f *fleet) setup(more ...string) string {
	f.t.Helper()
	args := []string{"setup", "--request-bytes", "16MiB", "--record-bytes", "16MiB", "--bucket-bytes", "16MiB"}
	return f.run(0, "operator", "sign-worker", append(args, more...)...)
}

// worker starts a worker and waits until it serves.
func (f *fleet) worker(more ...string) *peers.Program {
	f.t.Helper()
	passphrase := f.list("passphrase", f.key.Passphrase)
	args := []string{"--sigstore-key", f.key.Private, "--sigstore-passphrase-file", passphrase,
		"--tls-verify=false", "--insecure-policy"}
	p := f.start("worker", "sign-worker", append(args, more...)...)
	require.NoError(f.t, p.Says(f.t.Context(), regexp.MustCompile(`"serving"`), patience))
	return p
}

// drain ends a worker in good order.
func (f *fleet) drain(p *peers.Program) {
	f.t.Helper()
	require.NoError(f.t, p.Signal(syscall.SIGTERM))
	f.end(0, p)
}

func (f *fleet) requireSigned(references ...string) {
	f.t.Helper()
	for _, reference := range references {
		require.NoError(f.t, peers.CosignVerify(f.t.Context(), f.registry.Access(), reference, f.key.Public))
	}
}

// scrape is what a worker tells Prometheus.
func (f *fleet) scrape(address string) string {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	require.NoError(f.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(f.t, err)
	defer resp.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	return string(text)
}
