package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/registry"
)

// Format is the way in which signatures are attached to an image.
type Format string

// FormatTag attaches signatures under the tag sha256-<hex>.sig, where every
// version of cosign and containers/image finds them.
const FormatTag Format = "tag"

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

// Options are what a [Signer] is made of. Registry, Locker and Keys must be set.
type Options struct {
	Registry      *registry.Client
	Locker        Locker
	Keys          []*Key
	ConfirmWrites ConfirmWrites // default auto
	Format        Format        // default tag
	LockTTL       time.Duration // full length of the Locker's leases; default 1 min
	SkipIndex     bool          // sign the manifests of an index, but not the index
	Log           *zap.Logger   // default none
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
	case o.Format != "" && o.Format != FormatTag:
		return fmt.Errorf("option Format: %q is not tag", o.Format)
	}
	held := map[string]bool{}
	for _, key := range o.Keys {
		if key == nil || held[key.Fingerprint()] {
			return errors.New("option Keys has an empty entry or one key twice")
		}
		held[key.Fingerprint()] = true
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.ConfirmWrites == "" {
		o.ConfirmWrites = ConfirmAuto
	}
	if o.Format == "" {
		o.Format = FormatTag
	}
	if o.LockTTL == 0 {
		o.LockTTL = time.Minute
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o
}
