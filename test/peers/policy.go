package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/signfleet/signfleet/test/peers/build"
)

// PolicyVerify asks the policy engine of containers/image, as podman and
// CRI-O do before a pull, whether an image may run when it must be signed by
// a key ("sigstoreSigned", with the default identity). It returns nil or a
// *RejectedError, or another error when the engine could not tell.
//
// The engine is a program of its own (policyverify): it needs a build tag that
// the tests that ask it then do not.
func PolicyVerify(ctx context.Context, access Access, image, publicKey string) error {
	return PolicyVerifyAs(ctx, access, image, publicKey, "")
}

// PolicyVerifyAs is PolicyVerify with the JSON of a signedIdentity, which says by
// what name the image must be signed.
func PolicyVerifyAs(ctx context.Context, access Access, image, publicKey, identity string) error {
	path, err := build.Helper(ctx, "policyverify")
	if err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "policy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home) //nolint:errcheck // a leftover in the temporary directory harms nobody
	args := []string{"-dir", home, "-key", publicKey, "-auth-file", access.AuthFile, "-ca-file", access.CAFile, "-identity", identity}
	if access.PlainHTTP {
		args = append(args, "-plain-http")
	}
	cmd := exec.CommandContext(ctx, path, append(args, image)...)
	cmd.Env = []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home, "TMPDIR=" + os.TempDir()}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return &RejectedError{Image: image, Reason: string(out)}
	}
	return fmt.Errorf("policyverify %s: %w\n%s", image, err, out)
}
