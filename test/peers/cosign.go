package peers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/signfleet/signfleet/test/peers/build"
)

// KeyPair is a key in files, as cosign writes them.
type KeyPair struct {
	Private, Public string // paths
	Passphrase      string
}

// GenerateKey has cosign make a key pair in dir.
func GenerateKey(ctx context.Context, dir, passphrase string) (KeyPair, error) {
	prefix := filepath.Join(dir, "cosign")
	err := cosign(ctx, Access{}, passphrase, "generate-key-pair", "--output-key-prefix", prefix)
	return KeyPair{Private: prefix + ".key", Public: prefix + ".pub", Passphrase: passphrase}, err
}

// ImportKey has cosign encrypt a PEM private key of any type it takes, in dir.
func ImportKey(ctx context.Context, dir, pemFile, passphrase string) (KeyPair, error) {
	prefix := filepath.Join(dir, "import-cosign")
	err := cosign(ctx, Access{}, passphrase, "import-key-pair", "--key", pemFile, "--output-key-prefix", prefix)
	return KeyPair{Private: prefix + ".key", Public: prefix + ".pub", Passphrase: passphrase}, err
}

// CosignSign signs an image with the classic attachment (a .sig tag) and no log.
func CosignSign(ctx context.Context, access Access, image string, key KeyPair, flags ...string) error {
	args := append([]string{"sign", "--key", key.Private, "--yes",
		"--use-signing-config=false", "--tlog-upload=false", "--new-bundle-format=false"}, flags...)
	return cosign(ctx, access, key.Passphrase, append(args, image)...)
}

// CosignSignAll is CosignSign for several images, in one run.
func CosignSignAll(ctx context.Context, access Access, images []string, key KeyPair) error {
	args := []string{"sign", "--key", key.Private, "--yes",
		"--use-signing-config=false", "--tlog-upload=false", "--new-bundle-format=false"}
	return cosign(ctx, access, key.Passphrase, append(args, images...)...)
}

// CosignSignBundle signs an image as cosign 3 does by default, with a bundle,
// and no log.
func CosignSignBundle(ctx context.Context, access Access, image string, key KeyPair, flags ...string) error {
	args := append([]string{"sign", "--key", key.Private, "--yes",
		"--use-signing-config=false", "--tlog-upload=false"}, flags...)
	return cosign(ctx, access, key.Passphrase, append(args, image)...)
}

// RejectedError is a verifier's refusal of an image.
type RejectedError struct {
	Image, Reason string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%s is refused: %s", e.Image, e.Reason)
}

// CosignVerify verifies an image with a public key, without a log. It returns
// nil, or a *RejectedError where cosign saw what there is and found no signature
// by the key in it, or another error.
func CosignVerify(ctx context.Context, access Access, image, publicKey string, flags ...string) error {
	args := append([]string{"verify", "--key", publicKey, "--insecure-ignore-tlog"}, flags...)
	err := cosign(ctx, access, "", append(args, image)...)
	if err != nil && (strings.Contains(err.Error(), "no signatures found") || strings.Contains(err.Error(), "no matching ")) {
		return &RejectedError{Image: image, Reason: err.Error()}
	}
	return err
}

// CosignVerifyAll is CosignVerify for many images of one key, in one run for
// each few dozen of them; its error names the first that cosign does not accept.
func CosignVerifyAll(ctx context.Context, access Access, publicKey string, images []string) error {
	for some := range slices.Chunk(images, 40) {
		args := []string{"verify", "--key", publicKey, "--insecure-ignore-tlog", "--output", "text"}
		if err := cosign(ctx, access, "", append(args, some...)...); err != nil {
			return err
		}
	}
	return nil
}

// cosign runs the program with nothing of this machine's settings in reach.
func cosign(ctx context.Context, access Access, passphrase string, args ...string) error {
	path, err := build.Pinned(ctx, "cosign")
	if err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "cosign-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home) //nolint:errcheck // a leftover in the temporary directory harms nobody
	if len(args) > 0 && (args[0] == "sign" || args[0] == "verify") {
		args = append(args, access.cosignFlags()...)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{
		"HOME=" + home, "TUF_ROOT=" + filepath.Join(home, "tuf"), "PATH=" + os.Getenv("PATH"),
		"TMPDIR=" + os.TempDir(), "COSIGN_PASSWORD=" + passphrase,
	}
	if dir := access.DockerConfig(); dir != "" {
		cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+dir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cosign %s: %w\n%s", args[0], err, out)
	}
	return nil
}

func (a Access) cosignFlags() []string {
	var flags []string
	if a.PlainHTTP {
		flags = append(flags, "--allow-http-registry")
	}
	if a.CAFile != "" {
		flags = append(flags, "--registry-cacert", a.CAFile)
	}
	return flags
}
