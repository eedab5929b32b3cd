package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	permanent := func(class string) failure { return failure{class: class, permanent: true} }
	transient := func(class string) failure { return failure{class: class} }
	unheard := func(f failure) failure { f.unheard = true; return f }
	later := func(class string) failure { return failure{class: class, retryAfter: 7 * time.Second} }
	status := func(status int) error { return answered(status, 7*time.Second) }
	written := func(status int, code, message string) error {
		return &registry.Error{Method: "PUT", Status: status, Codes: []registry.Diagnostic{{Code: code, Message: message}}}
	}
	tests := []struct {
		name string
		err  error
		want failure
	}{
		// Of signing.
		{"reference", &sign.ReferenceError{}, unheard(permanent(InvalidRequest))},
		{"platform", &sign.PlatformError{}, unheard(permanent(InvalidRequest))},
		{"pinned digest", &sign.MismatchError{}, permanent(DigestMismatch)},
		{"schema 1", &sign.UnsupportedError{}, permanent(UnsupportedMediaType)},
		{"immutable attachment", &sign.ImmutableError{Err: status(409)}, permanent(Immutable)},
		{"overwritten again and again", &sign.ConflictError{Err: errors.New("another signer overwrote it")}, transient(Conflict)},
		{"key of another signer", &sign.KeyError{Err: sign.ErrUnknownKey}, unheard(permanent(PolicyRejected))},
		{"key that makes bad signatures", &sign.KeyError{Err: sign.ErrInvalidSignature}, unheard(transient(KeyUnavailable))},
		{"key service away", &sign.KeyError{Err: io.ErrUnexpectedEOF}, unheard(transient(KeyUnavailable))},

		// Of the registry, before it is asked.
		{"blocked", &registry.BlockedError{}, unheard(permanent(Denied))},
		{"attachments disabled", &registry.AttachmentsDisabledError{}, unheard(permanent(Denied))},
		{"credential helper", &registry.CredentialError{Err: errors.New("exit status 1")}, unheard(permanent(Unauthorized))},

		// What it answered.
		{"another content", &registry.MismatchError{}, permanent(DigestMismatch)},
		{"larger than a manifest may be", &registry.TooLargeError{}, permanent(UnsupportedMediaType)},
		{"400", status(400), later(Internal)},
		{"401", status(401), permanent(Unauthorized)},
		{"403", status(403), permanent(Denied)},
		{"404", status(404), permanent(NotFound)},
		{"405 of a read-only registry", status(405), permanent(Denied)},
		{"408", status(408), later(Network)},
		{"409", status(409), later(Conflict)},
		{"409 of Quay", written(409, "TAG_IMMUTABLE", "tag is immutable and cannot be overwritten"), permanent(Immutable)},
		{"412 of a project policy", written(412, "PROJECTPOLICYVIOLATION", "vulnerable"), permanent(Denied)},
		{"412 of an immutable tag", written(412, "PRECONDITION", "configured as immutable"), permanent(Immutable)},
		{"415", status(415), permanent(UnsupportedMediaType)},
		{"429", status(429), later(RateLimited)},
		{"451", status(451), permanent(Denied)},
		{"500", status(500), later(RegistryUnavailable)},
		{"503", status(503), later(RegistryUnavailable)},

		// Why it did not.
		{"connection refused", &registry.Error{Err: errors.New("connection refused")}, transient(Network)},
		{"redirect refused", &registry.Error{Err: &registry.RedirectError{}}, permanent(Denied)},
		{"a host that wants none for a while", &registry.ThrottledError{For: 7 * time.Second}, later(RateLimited)},
		{"one call took too long", overdue(t), transient(Timeout)},

		// Of this program.
		{"image timeout", &deadline.TimeoutError{}, transient(Timeout)},
		{"waited for a lock", &deadline.WaitError{For: deadline.Lock}, failure{class: Conflict, waited: true}},
		{"waited for a rate", &deadline.WaitError{For: deadline.Rate}, failure{class: RateLimited, waited: true}},
		{"waited for a breaker", &deadline.WaitError{For: deadline.Breaker}, failure{class: RegistryUnavailable, waited: true}},
		{"waited for what is not known", &deadline.WaitError{For: "tea"}, failure{class: Internal, waited: true}},
		{"aborted by the timeout", &abortedError{cause: &deadline.TimeoutError{}, err: status(404)}, transient(Timeout)},
		{"aborted by a wait", &abortedError{cause: &deadline.WaitError{For: deadline.Lock}, err: status(0)}, failure{class: Conflict, waited: true}},
		{"anything else", errors.New("boom"), unheard(transient(Internal))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, classify(test.err))
			require.Equal(t, test.want, classify(fmt.Errorf("signing r.example/app: %w", test.err)), "wrapped")
		})
	}
}

// overdue is the error of a call to a registry that came to the end of its
// own time, not of the image's.
func overdue(t *testing.T) error {
	t.Helper()
	dir := t.TempDir()
	o := registry.Options{AuthFile: filepath.Join(dir, "auth.json"), CertsDir: t.TempDir(), RegistriesConf: filepath.Join(dir, "registries.conf"), RegistriesDir: t.TempDir()}
	require.NoError(t, os.WriteFile(o.AuthFile, []byte("{}"), 0o600))
	require.NoError(t, os.WriteFile(o.RegistriesConf, nil, 0o600))
	client, err := registry.New(o)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	repository, err := client.Repository("127.0.0.1:1/app")
	require.NoError(t, err)
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	_, err = repository.Manifest(ctx, "latest")
	require.Error(t, err)
	return err
}
