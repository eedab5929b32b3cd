package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/registry"
)

// ConfirmWrites tells when a signature that was attached is looked at again.
// The locks of [Locker] keep signers of one fleet apart; others know no lock,
// and a registry cannot be asked to write only if nobody else did.
type ConfirmWrites string

const (
	// ConfirmAuto confirms where the attachment carried something that is not by
	// one of our keys: somebody else signs here.
	ConfirmAuto ConfirmWrites = "auto"
	// ConfirmAlways confirms every write.
	ConfirmAlways ConfirmWrites = "always"
	// ConfirmNever trusts the registry's answer.
	ConfirmNever ConfirmWrites = "never"
)

// Locker lets signers of one attachment take turns.
type Locker interface {
	// Lock waits for its turn; name is "registry/repository@digest". That the
	// waiting does not count as work on the image is its business too.
	Lock(ctx context.Context, name string) (Lease, error)
}

// Lease is a turn at an attachment.
type Lease interface {
	// Left is how long the lease still holds for certain, 0 when it is lost.
	Left() time.Duration
	// Unlock gives the turn back. It is bounded by itself, and works after the
	// context that the lock was taken with is cancelled.
	Unlock() error
}

// Gate decides whether an image may be signed.
type Gate interface {
	// Allow returns nil when an image may be signed: image is its name, with its tag
	// or digest, and manifest the digest of what it was found to be.
	Allow(ctx context.Context, image string, manifest digest.Digest) error
}

// Options are what a [Signer] is made of. Registry, Locker and Keys must be set.
type Options struct {
	Registry      *registry.Client
	Locker        Locker
	Keys          []*Key
	Formats       []Format      // default tag
	ConfirmWrites ConfirmWrites // default auto
	Gate          Gate          // nil lets everything be signed

	Identities  []IdentityRule    // what images are called; none: by their own names
	Annotations map[string]string // further claims that the signatures make
	Timestamps  bool              // record when signatures are made
	// Replaced are keys whose signatures go when ours come.
	Replaced []*PublicKey

	SkipIndex bool // sign the manifests of an index, but not the index
	// Recursive signs everything that an index holds, whatever the platforms
	// asked for: attestations, and what the indexes in it hold.
	Recursive bool
	// ImmutableFallback attaches as a referrer where the registry does not let
	// anybody change the attachment's tag.
	ImmutableFallback bool
	// ReportHidden looks, with one more request for each manifest, whether
	// signatures under a tag are hidden from cosign 3 by a bundle of anybody.
	ReportHidden bool

	LockTTL time.Duration    // full length of the Locker's leases; default 1 min
	Now     func() time.Time // default time.Now
	Log     *zap.Logger      // default none

	Meters  metric.MeterProvider // nil: nothing is measured
	Tracers trace.TracerProvider // nil: nothing is traced
}

// minLockTTL is the shortest lease within which an attachment can be written.
const minLockTTL = 3 * time.Second

// writeTimeout bounds the writing of an attachment, which starts only while its
// lease lasts for leaseMargin: so it ends while the lease still holds.
func (o Options) writeTimeout() time.Duration { return o.LockTTL / 3 }
func (o Options) leaseMargin() time.Duration  { return o.LockTTL / 2 }

// finishTimeout is how long a write that is under way may go on when it is no
// longer wanted. One that takes longer is of unknown outcome, as others are.
func (o Options) finishTimeout() time.Duration { return o.LockTTL / 12 }

// Validate names the first option that is missing or wrong.
func (o Options) Validate() error {
	if o.Registry == nil {
		return errors.New("option Registry is missing")
	}
	return o.validateRest()
}

func (o Options) validateRest() error {
	switch {
	case o.Locker == nil:
		return errors.New("option Locker is missing")
	case len(o.Keys) == 0:
		return errors.New("option Keys is empty")
	case !slices.Contains([]ConfirmWrites{"", ConfirmAuto, ConfirmAlways, ConfirmNever}, o.ConfirmWrites):
		return fmt.Errorf("option ConfirmWrites: %q is none of auto, always, never", o.ConfirmWrites)
	case o.LockTTL < 0 || o.LockTTL > 0 && o.LockTTL < minLockTTL:
		return fmt.Errorf("lock-ttl: %s leaves no time to write: make it %s or more", o.LockTTL, minLockTTL)
	case o.SkipIndex && o.Recursive:
		return errors.New("skip-index and recursive do not go together: recursive signs all there is")
	}
	if err := checkFormats(o.Formats); err != nil {
		return err
	}
	if err := checkAnnotations(o.Annotations); err != nil {
		return err
	}
	held := map[string]bool{}
	for _, key := range o.Keys {
		if key == nil || held[key.Fingerprint()] {
			return errors.New("option Keys has an empty entry or one key twice")
		}
		held[key.Fingerprint()] = true
	}
	for _, old := range o.Replaced {
		if held[old.Fingerprint()] {
			return fmt.Errorf("replace-key: %s is the key to sign with", old.Fingerprint())
		}
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.ConfirmWrites == "" {
		o.ConfirmWrites = ConfirmAuto
	}
	if len(o.Formats) == 0 {
		o.Formats = []Format{FormatTag}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.LockTTL == 0 {
		o.LockTTL = time.Minute
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o
}
