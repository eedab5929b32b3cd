package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry/registrytest"
	"github.com/signfleet/signfleet/internal/sign"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sign-submit": main})
}

// TestScripts runs the promises of the command line, one file each, against a
// registry ($REGISTRY) and keys of the script's own: cosign.key with the
// passphrase in pass.txt, empty.key with an empty one, plain.key with none.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setUpScript,
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"answers": answers,
			"exits":   exits,
			"push":    push,
			"signed":  signed,
			"tried":   tried,
			"workers": workers,
		},
	})
}

// world is what a script runs against.
type world struct {
	registry *registrytest.Registry
	t        testing.TB
}

type worldKey struct{}

func setUpScript(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("scripts run in go test only")
	}
	var options []registrytest.Option
	if _, err := os.Stat(filepath.Join(env.Cd, "immutable-tags")); err == nil { // a script's own wish
		options = append(options, registrytest.WithImmutableTags(registrytest.ImmutableHarbor), registrytest.WithReferrers(true))
	}
	registry := registrytest.New(t, options...)
	env.Values[worldKey{}] = world{registry, t}
	env.Setenv("REGISTRY", registry.Host())
	env.Setenv("HOME", env.Cd)
	env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, ".state"))
	env.Setenv("SIGNFLEET_TLS_VERIFY", "false")
	env.Setenv("SIGNFLEET_INSECURE_POLICY", "true")
	env.Setenv("SIGNFLEET_BACKOFF", "10ms")
	keys := scriptKeys()
	for name, content := range map[string][]byte{
		"cosign.key": keys.private, "cosign.pub": keys.public, "empty.key": keys.empty, "plain.key": keys.plain, "pass.txt": []byte("secret words\n"),
	} {
		if err := os.WriteFile(filepath.Join(env.Cd, name), content, 0o600); err != nil {
			return err
		}
	}
	list, err := os.ReadFile(filepath.Join(env.Cd, "images.txt"))
	if err == nil { // not every script has one
		list = []byte(strings.ReplaceAll(string(list), "$REGISTRY", registry.Host()))
		err = os.WriteFile(filepath.Join(env.Cd, "images.txt"), list, 0o600)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	startFleet(t, env)
	return nil
}

type keyPair struct{ private, public, empty, plain []byte }

// scriptKeys are made once: encrypting a key takes a good part of a second.
var scriptKeys = sync.OnceValue(func() keyPair {
	var keys keyPair
	var err, emptyErr, plainErr error
	keys.private, keys.public, err = sign.GenerateKey([]byte("secret words"))
	keys.empty, _, emptyErr = sign.GenerateKey([]byte{})
	keys.plain, plainErr = plainKey()
	if err := errors.Join(err, emptyErr, plainErr); err != nil {
		panic(err)
	}
	return keys
})

// plainKey is a new private key without a passphrase.
func plainKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// exits runs a program and checks its exit status: exits 2 sign-submit ...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// push puts an image into the registry: push index|list|manifest REPO:TAG [PLATFORM...].
func push(ts *testscript.TestScript, _ bool, args []string) {
	registry, t := registryOf(ts)
	repository, tag, _ := strings.Cut(args[1], ":")
	platforms := args[2:]
	if len(platforms) == 0 {
		platforms = []string{"linux/amd64", "linux/arm64"}
	}
	switch args[0] {
	case "index":
		registry.PushIndex(t, repository, tag, platforms...)
	case "list":
		registry.PushDockerList(t, repository, tag, platforms...)
	case "manifest":
		registry.PushManifest(t, repository, tag, platforms[0])
	default:
		ts.Fatalf("push %s?", args[0])
	}
}

// signed checks how many signature manifests a repository has: signed REPO N.
func signed(ts *testscript.TestScript, _ bool, args []string) {
	registry, _ := registryOf(ts)
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	got := 0
	for _, r := range registry.Requests() {
		if r.Method == "PUT" && r.Repository == args[0] && strings.HasSuffix(r.Reference, ".sig") {
			got++
		}
	}
	if got != want {
		ts.Fatalf("%s has %d signature manifests, want %d", args[0], got, want)
	}
}

func registryOf(ts *testscript.TestScript) (*registrytest.Registry, testing.TB) {
	w, ok := ts.Value(worldKey{}).(world)
	if !ok {
		ts.Fatalf("no registry")
	}
	return w.registry, w.t
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"linux/amd64", "linux/arm64"}, platforms([]string{"linux"}, []string{"amd64", " arm64"}))
	require.Equal(t, []string{"*/amd64"}, platforms(nil, []string{"amd64"}))
	require.Equal(t, []string{"linux/*"}, platforms([]string{"linux"}, []string{""}))
	require.Nil(t, platforms(nil, nil))
}
