package sign

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/opencontainers/go-digest"
)

// What can be wrong with a key; a [KeyError] wraps one of these or the error
// of the backend that holds the key.
var (
	ErrNoKey            = errors.New("no private key in it")
	ErrUnsupportedKey   = errors.New("not a key that can sign images")
	ErrDamagedKey       = errors.New("the private key cannot be read")
	ErrWrongPassphrase  = errors.New("wrong passphrase")
	ErrPassphraseNeeded = errors.New("the private key is encrypted and no passphrase was given")
	ErrUnknownKey       = errors.New("not a key of this signer")
	ErrInvalidSignature = errors.New("the signature just made does not verify with the public key")
)

// KeyError says which key cannot be used, why, and what to do about it. It
// never carries key material or a passphrase.
type KeyError struct {
	File        string // empty when the key did not come from a file
	Fingerprint string // empty when the key was not read so far as to have one
	Err         error
	Remedy      string
}

func (e *KeyError) Error() string {
	var text strings.Builder
	text.WriteString("key")
	for _, name := range []string{e.File, e.Fingerprint} {
		if name != "" {
			text.WriteString(" " + name)
		}
	}
	fmt.Fprintf(&text, ": %v", e.Err)
	if e.Remedy != "" {
		fmt.Fprintf(&text, " (%s)", e.Remedy)
	}
	return text.String()
}

func (e *KeyError) Unwrap() error { return e.Err }

// ReferenceError is a reference, a pinned digest or an identity of a request
// that cannot be read.
type ReferenceError struct {
	Reference string // as given
	Reason    string
}

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("%q: %s", e.Reference, e.Reason)
}

// RejectedError is an image that may not be signed, or not as it was asked for:
// the policy or the rules of this signer are against it, whatever the registry says.
type RejectedError struct {
	Reference string
	Reason    string
	Err       error // what the reason came with, if anything
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%s may not be signed: %s", e.Reference, e.Reason)
}

func (e *RejectedError) Unwrap() error { return e.Err }

// PlatformError is a platform filter of a request that cannot be read.
type PlatformError struct {
	Platform string // as given
	Reason   string
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("platform %q: %s", e.Platform, e.Reason)
}

// MismatchError is an image whose digest is not the pinned one: the tag has
// moved since the pin was taken.
type MismatchError struct {
	Reference string
	Pinned    digest.Digest
	Found     digest.Digest
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s is %s, not the pinned %s", e.Reference, e.Found, e.Pinned)
}

// UnsupportedError is a manifest of a kind that is neither signed nor skipped:
// Docker schema 1, an unknown media type, or one that says two things at once;
// also an index that is too large, or names its manifests by other digests
// than attachments can be found by.
type UnsupportedError struct {
	Reference string // of the image, or of the attachment
	MediaType string // empty when it is not the reason
	Reason    string
}

func (e *UnsupportedError) Error() string {
	if e.MediaType == "" {
		return fmt.Sprintf("%s cannot be signed: %s", e.Reference, e.Reason)
	}
	return fmt.Sprintf("%s has the unsupported media type %.128q: %s", e.Reference, e.MediaType, e.Reason)
}

// PanicError is a panic of what signs an image, which is a failure of that
// image and of nothing else. It wraps nothing: what a panic says is no fact to
// decide on.
type PanicError struct {
	Value any    // what it panicked with
	Stack []byte // of the goroutine that did
}

func (e *PanicError) Error() string {
	first, _, _ := strings.Cut(fmt.Sprint(e.Value), "\n")
	return "panic: " + first
}

// guarded is work whose panic is its error: in a goroutine of its own, nobody
// else could keep it from ending the process.
func guarded(work func() error) func() error {
	return func() (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = &PanicError{Value: value, Stack: debug.Stack()}
			}
		}()
		return work()
	}
}

// ConflictError is an attachment that could not be written although the
// registry did not refuse it: others kept overwriting it, its lock was not to
// be had for long enough, or something that is no attachment has its tag.
type ConflictError struct {
	Attachment string // repository:tag
	Reason     string
	Err        error // of the last try, if it had one
}

func (e *ConflictError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("attachment %s: %s: %v", e.Attachment, e.Reason, e.Err)
	}
	return fmt.Sprintf("attachment %s: %s", e.Attachment, e.Reason)
}

func (e *ConflictError) Unwrap() error { return e.Err }

// ImmutableError is an attachment that lacks our signature and that the
// registry does not let anybody change.
type ImmutableError struct {
	Attachment string // repository:tag
	Err        error  // the registry's answer
}

func (e *ImmutableError) Error() string {
	remedy := `exempt the tags "sha256-*" from the registry's rule`
	if strings.HasSuffix(e.Attachment, ".sig") {
		remedy = `exempt the tags "sha256-*.sig" from the registry's rule, or attach as a referrer in place of it with immutable-fallback`
	}
	return fmt.Sprintf("attachment %s is immutable (%s): %v", e.Attachment, remedy, e.Err)
}

func (e *ImmutableError) Unwrap() error { return e.Err }
