// Command demo shows Signfleet at work without anything to install: it starts
// a registry in this process, fills it with a few images, has sign-submit sign
// them with a new key, and verifies every signature.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/signfleet/signfleet/internal/sign"
)

func main() {
	command := flag.String("sign-submit", "bin/sign-submit", "the program to show")
	flag.Parse()
	if err := run(*command); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(command string) (err error) {
	dir, err := os.MkdirTemp("", "signfleet-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	host, stop, err := startRegistry()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	step("1. A registry with a few images, at %s", host)
	images, err := pushImages(host)
	if err != nil {
		return err
	}
	list := filepath.Join(dir, "images.txt")
	if err := os.WriteFile(list, []byte(listOf(images)), 0o600); err != nil {
		return err
	}
	for _, image := range images {
		fmt.Printf("   %-44s %s\n", image.reference, image.kind)
	}

	step("2. A key, as `cosign generate-key-pair` makes it")
	key, err := writeKey(dir)
	if err != nil {
		return err
	}

	step("3. Sign the list")
	args := []string{
		"--file", list, "--sigstore-key", key.private, "--sigstore-passphrase-file", key.passphrase,
		"--arch", "amd64,arm64", "--os", "linux", "--jobs", "4", "--tls-verify=false",
		"--state-dir", filepath.Join(dir, "state"), "--failed", filepath.Join(dir, "sign-failed.txt"),
	}
	fmt.Printf("   sign-submit %s\n\n", strings.Join(args, " "))
	began := time.Now()
	if err := signSubmit(command, args); err != nil {
		return err
	}
	took := time.Since(began)

	step("4. Verify every signature with the public key")
	count := 0
	for _, image := range images {
		n, err := verify(image, key.public)
		if err != nil {
			return fmt.Errorf("verify %s: %w", image.reference, err)
		}
		count += n
	}
	fmt.Printf("   %d signatures of %d images verified, made in %s.\n", count, len(images), took.Round(time.Millisecond))

	step("5. Sign the list again: what is signed is seen from its manifests, and nothing is written")
	if err := signSubmit(command, args); err != nil {
		return err
	}
	fmt.Print(onYourOwn)
	return nil
}

const onYourOwn = `
On your own registry:

   podman login registry.example.org        # or docker login, skopeo login
   sign-submit --file images.txt --sigstore-key cosign.key --registry registry.example.org --project mirror
   cosign verify --key cosign.pub --insecure-ignore-tlog registry.example.org/mirror/NAME:TAG

With more than one machine, start a NATS server and a sign-worker on each, and
give sign-submit --nats-url in place of the key. See README.md.
`

func step(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

func startRegistry() (host string, stop func() error, err error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{
		Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return listener.Addr().String(), func() error {
		err := server.Close()
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
		return err
	}, nil
}

type keyFiles struct{ private, public, passphrase string }

func writeKey(dir string) (keyFiles, error) {
	files := keyFiles{filepath.Join(dir, "cosign.key"), filepath.Join(dir, "cosign.pub"), filepath.Join(dir, "pass.txt")}
	passphrase := []byte("demo")
	private, public, err := sign.GenerateKey(append([]byte{}, passphrase...))
	if err != nil {
		return files, err
	}
	fmt.Printf("   %s, %s\n", files.private, files.public)
	return files, errors.Join(
		os.WriteFile(files.private, private, 0o600),
		os.WriteFile(files.public, public, 0o600),
		os.WriteFile(files.passphrase, passphrase, 0o600),
	)
}

func signSubmit(command string, args []string) error {
	cmd := exec.CommandContext(context.Background(), command, args...) //nolint:gosec // G204: the program that is shown
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	// The demo's registry needs no credentials: whatever this machine has stays out of it.
	cmd.Env = append(os.Environ(), "SIGNFLEET_INSECURE_POLICY=true")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}
