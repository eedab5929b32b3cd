package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/signfleet/signfleet/test/peers/build"
)

// BundleVerify asks sigstore-go whether an image has a bundle that is signed by
// a key. It returns nil or a *RejectedError, or another error when that could
// not be told.
//
// sigstore-go is in a program of its own (bundleverify), since it brings the
// clients of logs and certificate authorities, which no test of ours has to do
// with.
func BundleVerify(ctx context.Context, access Access, image, publicKey string) error {
	path, err := build.Pinned(ctx, "bundleverify")
	if err != nil {
		return err
	}
	args := []string{"-key", publicKey}
	if access.PlainHTTP {
		args = append(args, "-plain-http")
	}
	cmd := exec.CommandContext(ctx, path, append(args, image)...)
	cmd.Env = []string{"HOME=" + os.TempDir(), "DOCKER_CONFIG=" + access.DockerConfig(), "SSL_CERT_FILE=" + access.CAFile}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return &RejectedError{Image: image, Reason: string(out)}
	}
	return fmt.Errorf("bundleverify %s: %w\n%s", image, err, out)
}
