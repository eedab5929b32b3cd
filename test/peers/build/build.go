// Package build makes the programs that tests run, on the machine that runs
// them: the peers pinned in test/tools (the real registry, cosign, nats-server,
// and what asks sigstore-go), what reads manifests in test/tools/manifests, the linter pinned in test/tools/lint, what looks for
// vulnerabilities in test/tools/vulns, and the project's own commands.
//
// A pinned program is kept in .cache/bin with the checksum of the go.mod and
// go.sum that it came from, and of its source if that is ours: when they change
// it is built again, and when they do not it costs nothing. One lock serves all who ask at once. The package
// does not know what the programs are for.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// modulePath names the module whose go.mod marks the root of the checkout.
const modulePath = "github.com/signfleet/signfleet"

// Tag is the build tag without which containers/image wants C headers.
const Tag = "containers_image_openpgp"

// pin is where a program's version is written down, and its package.
type pin struct {
	module, pkg string
}

func pins() map[string]pin {
	return map[string]pin{
		"cosign":        {"test/tools", "github.com/sigstore/cosign/v3/cmd/cosign"},
		"registry":      {"test/tools", "github.com/distribution/distribution/v3/cmd/registry"},
		"nats-server":   {"test/tools", "github.com/nats-io/nats-server/v2"},
		"bundleverify":  {"test/tools", "./bundleverify"},
		"govulncheck":   {"test/tools/vulns", "golang.org/x/vuln/cmd/govulncheck"},
		"manifests":     {"test/tools/manifests", "./"},
		"golangci-lint": {"test/tools/lint", "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"},
	}
}

// Peers names the programs that tests talk to.
func Peers() []string {
	return []string{"bundleverify", "cosign", "manifests", "nats-server", "registry"}
}

// Pinned returns the path of a pinned program, and builds it first if it is
// missing or was built from other versions.
func Pinned(ctx context.Context, name string) (string, error) {
	p, ok := pins()[name]
	if !ok {
		return "", fmt.Errorf("program %q is not pinned in test/tools", name)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", "bin", name)
	want, err := checksum(filepath.Join(root, p.module), p.pkg)
	if err != nil {
		return "", fmt.Errorf("reading versions of %s: %w", name, err)
	}
	if current(path, want) {
		return path, nil
	}
	unlock, err := lock(root)
	if err != nil {
		return "", err
	}
	defer unlock()
	if current(path, want) { // built while we waited for the lock
		return path, nil
	}
	// The stamp goes first: a build that is cut short must not leave an old
	// stamp beside a new program.
	if err := os.Remove(stampOf(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "building %s (the first time takes minutes)\n", name)
	err = goBuild(ctx, filepath.Join(root, p.module), "-ldflags=-s -w", "-o", path, p.pkg)
	if err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	if err := os.WriteFile(stampOf(path), []byte(want), 0o600); err != nil {
		return "", fmt.Errorf("stamping %s: %w", name, err)
	}
	return path, nil
}

// Own builds packages of this module with [Tag] into dir; patterns are as for
// go build ("./cmd/...").
func Own(ctx context.Context, dir string, patterns ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	args := append([]string{"-tags=" + Tag, "-o", dir + string(filepath.Separator)}, patterns...)
	if err := goBuild(ctx, root, args...); err != nil {
		return fmt.Errorf("building %s: %w", strings.Join(patterns, " "), err)
	}
	return nil
}

// built remembers the helpers that this process has built: sources do not
// change under a running test, and asking go each time costs half a second.
var built sync.Map

// Helper returns the path of a program of the test tree ("policyverify" for
// test/peers/policyverify), built from the sources as they are at first use.
func Helper(ctx context.Context, name string) (string, error) {
	if path, ok := built.Load(name); ok {
		return path.(string), nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	unlock, err := lock(root)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(root, ".cache", "bin")
	if err := Own(ctx, dir, "./test/peers/"+name); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	built.Store(name, path)
	return path, nil
}

// Root returns the directory of the checkout that the working directory is in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && slices.Contains(strings.Split(string(mod), "\n"), "module "+modulePath) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside a checkout of " + modulePath)
		}
		dir = parent
	}
}

func stampOf(path string) string { return path + ".sum" }

func current(path, want string) bool {
	got, err := os.ReadFile(stampOf(path))
	if err != nil || string(got) != want {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// checksum covers the versions, the source of a package that is in the module
// itself, and the platform: a checkout may be shared between a machine and its
// containers.
func checksum(dir, pkg string) (string, error) {
	files := []string{filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")}
	if strings.HasPrefix(pkg, "./") {
		source, err := filepath.Glob(filepath.Join(dir, pkg, "*.go"))
		if err != nil {
			return "", err
		}
		files = append(files, source...)
	}
	sum := sha256.New()
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil)) + " " + runtime.GOOS + "/" + runtime.GOARCH, nil
}

func lock(root string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(root, ".cache", "bin"), 0o750); err != nil {
		return nil, err
	}
	return lockedfile.MutexAt(filepath.Join(root, ".cache", "build.lock")).Lock()
}

func goBuild(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-buildvcs=false"}, args...)...)
	cmd.Dir = dir
	// Flags meant for the project (-race, -tags, -mod) must not reach the peers.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
