//go:build containers_image_openpgp

package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/image"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
	"github.com/docker/distribution/registry/api/errcode"
)

// errNoEngine is for programs that are built without an engine.
var errNoEngine = errors.New("no engine")

// engine is that of containers/image. It reads signatures through its own client,
// since what it reads them with cannot be given to it: those requests are neither
// counted nor throttled with ours.
type engine struct {
	policy  *signature.Policy
	context *types.SystemContext
}

func newEngine(data []byte, a Access) (*engine, error) {
	policy, err := signature.NewPolicyFromBytes(data)
	if err != nil {
		return nil, err
	}
	e := &engine{policy: policy, context: &types.SystemContext{
		AuthFilePath: a.AuthFile, SystemRegistriesConfPath: a.RegistriesConf, RegistriesDirPath: a.RegistriesDir,
		DockerPerHostCertDirPath: a.CertsDir, DockerRegistryUserAgent: a.UserAgent,
	}}
	if a.TLSVerify != nil {
		e.context.DockerInsecureSkipTLSVerify = types.NewOptionalBool(!*a.TLSVerify)
	}
	return e, nil
}

// allow evaluates the requirements of an image on one of its manifests.
func (e *engine) allow(ctx context.Context, q question) error {
	access := func(err error) error {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return &AccessError{Reference: q.image.String(), Status: statusOf(err), Err: err}
	}
	ref, err := docker.NewReference(q.image)
	if err != nil {
		return &RejectedError{Reference: q.image.String(), File: q.file, Reason: err.Error()}
	}
	source, err := ref.NewImageSource(ctx, e.context)
	if err != nil {
		return access(err)
	}
	defer source.Close() //nolint:errcheck // only read from
	unparsed := image.UnparsedInstance(source, &q.manifest)
	// All that is to be read is read, and kept, before anything is decided: what
	// goes wrong there is no rejection, and afterwards could not be told from one.
	if _, _, err := unparsed.Manifest(ctx); err != nil {
		return access(err)
	}
	signatures, err := unparsed.UntrustedSignatures(ctx)
	if err != nil {
		return access(err)
	}
	// A context serves one evaluation at a time.
	evaluation, err := signature.NewPolicyContext(e.policy)
	if err != nil {
		return access(err)
	}
	defer evaluation.Destroy() //nolint:errcheck // it holds nothing
	allowed, err := evaluation.IsRunningImageAllowed(ctx, unparsed)
	switch broken := new(fs.PathError); {
	case err == nil && allowed:
		return nil
	case err == nil:
		err = errors.New("no reason is given")
	case ctx.Err() != nil, errors.As(err, &broken): // a key that is not there now
		return access(err)
	}
	reason := err.Error()
	if len(signatures) == 0 {
		reason += fmt.Sprintf(" on %s (attached signatures count where registries.d has use-sigstore-attachments: true for it)", q.manifest)
	}
	return &RejectedError{Reference: q.image.String(), File: q.file, Reason: reason}
}

// statusOf finds the status of a registry's answer in an error of its client.
func statusOf(err error) int {
	var unauthorized docker.ErrUnauthorizedForCredentials
	var unexpected docker.UnexpectedHTTPStatusError
	var one errcode.Error
	var several errcode.Errors
	switch {
	case errors.As(err, &unauthorized):
		return http.StatusUnauthorized
	case errors.Is(err, docker.ErrTooManyRequests):
		return http.StatusTooManyRequests
	case errors.As(err, &unexpected):
		return unexpected.StatusCode
	case errors.As(err, &one):
		return statusOfCode(one.Code)
	case errors.As(err, &several) && len(several) > 0:
		return statusOf(several[0])
	}
	var code errcode.ErrorCode
	if errors.As(err, &code) {
		return statusOfCode(code)
	}
	return 0
}

// statusOfCode is the status that goes with a code. One that is unknown is of an
// answer that was no success all the same.
func statusOfCode(code errcode.ErrorCode) int {
	if status := code.Descriptor().HTTPStatusCode; status != 0 {
		return status
	}
	return http.StatusInternalServerError
}
