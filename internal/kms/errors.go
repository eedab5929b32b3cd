package kms

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	vault "github.com/hashicorp/vault/api"
)

// What can be wrong with a key in a service; an [Error] wraps one of these, or the
// cause of the end of its context.
var (
	ErrUnreachable = errors.New("the service is away")
	ErrThrottled   = errors.New("the service has wanted fewer calls")
	ErrDenied      = errors.New("the service does not let us (see the permissions of its token or account, and whether it has expired)")
	ErrNoKey       = errors.New("the service has no such key")
	ErrRefused     = errors.New("the service refused")
	ErrRotated     = errors.New("the key has been rotated, and the version that signed can no longer be used: " +
		"reload the worker (SIGHUP) or start it again to sign with the new one")
	ErrMisfit = errors.New("what the service signs does not verify with the public key that it gives: " +
		"it has to sign over SHA-256 (RSA: PKCS#1 v1.5; Ed25519: the message itself)")
)

// Error is a call to a service that came to nothing. It has none of the secrets
// in it with which the call was made.
type Error struct {
	URI string // of the key
	Op  string // what was tried
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %v", e.URI, e.Op, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// SettingError is a URI, or something else that was given, that no service could
// make right.
type SettingError struct {
	URI    string
	Reason string
}

func (e *SettingError) Error() string { return fmt.Sprintf("%s: %s", e.URI, e.Reason) }

// failed is the error of a call: one of those above, and what was said, of which
// only the text is kept.
func (c *client) failed(op string, err error) error {
	said, kind := kindOf(err)
	if said = clean(said, c.secrets); said != "" {
		return &Error{URI: c.uri, Op: op, Err: fmt.Errorf("%w: %s", kind, said)}
	}
	return &Error{URI: c.uri, Op: op, Err: kind}
}

// kindOf finds out what an error means, and what is worth telling of it.
func kindOf(err error) (said string, kind error) {
	for _, known := range []error{ErrUnreachable, ErrThrottled, ErrDenied, ErrNoKey, ErrRefused, ErrRotated, ErrMisfit} {
		if errors.Is(err, known) {
			return strings.TrimPrefix(strings.TrimPrefix(err.Error(), known.Error()), ": "), known
		}
	}
	var (
		answer  *vault.ResponseError
		status  interface{ HTTPStatusCode() int }
		call    *url.Error
		network net.Error
	)
	switch {
	case errors.As(err, &answer):
		return fmt.Sprintf("%d %s: %s", answer.StatusCode, http.StatusText(answer.StatusCode), strings.Join(answer.Errors, "; ")), kindOfStatus(answer.StatusCode)
	case errors.As(err, &status):
		return err.Error(), kindOfStatus(status.HTTPStatusCode())
	case errors.As(err, &call):
		return call.Err.Error(), ErrUnreachable // without the URL, which may have a password in it
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return err.Error(), ErrUnreachable
	case strings.Contains(err.Error(), "could not read data from transit key path"):
		return "", ErrNoKey // it is what the client for Vault makes of 404
	}
	return err.Error(), ErrRefused
}

func kindOfStatus(status int) error {
	switch {
	case status == http.StatusTooManyRequests:
		return ErrThrottled
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrDenied
	case status == http.StatusNotFound:
		return ErrNoKey
	case status >= http.StatusInternalServerError, status == http.StatusPreconditionFailed, status == http.StatusRequestTimeout:
		return ErrUnreachable // a sealed Vault among them
	}
	return ErrRefused
}

// maxSaid bounds what is told of an answer, in bytes.
const maxSaid = 1 << 10

// clean is a text in one line, of some length, without secrets.
func clean(text string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "..."
	}
	return text
}
