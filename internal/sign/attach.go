package sign

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/registry"
)

const (
	// maxTurns bounds how often an attachment is begun anew, whatever the reason.
	maxTurns = 8
	// maxUnknown bounds the writes whose outcome stays unknown: from then on
	// the registry is ill, and waiting for it is up to the caller.
	maxUnknown = 3
)

var (
	errLeaseShort  = errors.New("its lock was about to run out")
	errLeaseLost   = errors.New("its lock was lost while it was written")
	errOverwritten = errors.New("another signer overwrote it")
	errNotKept     = errors.New("the registry took it and did not keep it")
)

// againError ends a turn that another one has to follow. It has no Unwrap: why
// another turn is needed is not yet what the signing failed for.
type againError struct{ because error }

func (e *againError) Error() string { return "again: " + e.because.Error() }

// attachmentStore is where attachments are.
type attachmentStore interface {
	imageReader
	Name() string
	Location() string
	PutManifest(ctx context.Context, reference, mediaType string, body []byte, begin registry.BeginWrite) error
	DeleteManifest(ctx context.Context, d digest.Digest) error
	PutBlob(ctx context.Context, body []byte) error
	PutConstant(ctx context.Context, body []byte) error
	Holds(d digest.Digest)
	Has(ctx context.Context, d digest.Digest) (bool, error)
	HasReferrersAPI(ctx context.Context, subject digest.Digest) (bool, error)
	Referrers(ctx context.Context, subject digest.Digest) ([]oci.Descriptor, error)
	RefusesSharedConfig() bool
	NoteSharedConfigRefused()
}

// attachable is what is to be in an attachment: the formats differ in it, not in
// how it gets there.
type attachable interface {
	tag() string
	mediaType() string
	lock() string // what is locked while the attachment is written
	// read reads what was found under the tag.
	read(name string, found registry.Manifest) (attachment, error)
	// foreign tells whether somebody else writes to the attachment.
	foreign(found attachment) bool
	// missing is what has to become of the attachment.
	missing(ctx context.Context, found attachment) (change, error)
	// upload puts what the attachment will name. uploaded tells that it may have
	// taken time.
	upload(ctx context.Context, found attachment, c change) (uploaded bool, err error)
	compose(name string, found attachment, c change) ([]byte, error)
	complete(found attachment) bool
	// adapt tells whether there is another way after a refusal, and goes it from
	// then on.
	adapt(answer *registry.Error) bool
	stored() // the manifest was accepted
}

// attaching is the writing of one attachment, from the first look at it until
// all that belongs there is there.
type attaching struct {
	*Signer
	attachable
	repo attachmentStore
	name string // for errors: repository:tag

	confirming bool          // somebody else signs here, or all writes are confirmed
	accepted   bool          // the repository took a blob from us
	seen       attachment    // the last one that was not absent
	unknown    []error       // failures of the writes with an unknown outcome
	unsettled  bool          // none has succeeded since such a write
	slowest    time.Duration // longest time from a read to the end of its write
}

// attach brings an attachment to what it should contain, and returns the digest
// of one that has it all.
func (s *Signer) attach(ctx context.Context, repo attachmentStore, c attachable) (digest.Digest, error) {
	a := &attaching{
		Signer:     s,
		attachable: c,
		repo:       repo,
		name:       repo.Name() + ":" + c.tag(),
		confirming: s.options.ConfirmWrites == ConfirmAlways,
	}
	var again *againError
	for range maxTurns {
		attached, err := a.turn(ctx)
		if !errors.As(err, &again) {
			return attached, err
		}
		s.options.Log.Info("attaching once more", zap.String("attachment", a.name), zap.NamedError("because", again.because))
	}
	return "", &ConflictError{Attachment: a.name, Reason: fmt.Sprintf("not written in %d tries", maxTurns), Err: again.because}
}

// turn writes the attachment and, where that is called for, sees to it that it
// stays. The wait for that needs no lock: who has the lock next reads first.
func (a *attaching) turn(ctx context.Context) (digest.Digest, error) {
	attached, wrote, err := a.write(ctx)
	if err != nil || !wrote || !a.confirming {
		return attached, err
	}
	return a.confirm(ctx, time.Now())
}

// write looks at the attachment and adds to it what is missing, under its lock.
func (a *attaching) write(ctx context.Context) (attached digest.Digest, wrote bool, err error) {
	lease, err := a.options.Locker.Lock(ctx, a.lock())
	if err != nil {
		return "", false, fmt.Errorf("waiting for the lock of %s: %w", a.name, err)
	}
	defer a.unlock(lease)

	found, wanted, began, err := a.prepare(ctx)
	if err != nil || wanted.none() {
		return found.digest, false, err
	}
	body, err := a.compose(a.name, found, wanted)
	if err != nil {
		return "", false, err
	}
	if len(a.unknown) >= maxUnknown {
		return "", false, a.unknown[len(a.unknown)-1]
	}
	if err := a.put(ctx, lease, body); err != nil {
		return "", false, a.judge(ctx, found, err)
	}
	a.stored()
	a.unsettled = false
	a.slowest = max(a.slowest, time.Since(began))
	if lease.Left() <= 0 {
		return "", false, &againError{errLeaseLost}
	}
	return digest.FromBytes(body), true, nil
}

// prepare reads the attachment, finds out what it lacks, and uploads what that
// needs; nothing is uploaded for what is there. began is when the read began
// that the write will be based on.
func (a *attaching) prepare(ctx context.Context) (found attachment, wanted change, began time.Time, err error) {
	for {
		began = time.Now()
		if found, err = a.look(ctx); err != nil {
			return attachment{}, change{}, began, err
		}
		if wanted, err = a.missing(ctx, found); err != nil || wanted.none() {
			return found, change{}, began, err
		}
		a.confirming = a.confirming || a.options.ConfirmWrites == ConfirmAuto && a.foreign(found)
		uploaded, err := a.upload(ctx, found, wanted)
		if err != nil {
			return attachment{}, change{}, began, a.refused(fmt.Errorf("uploading for %s: %w", a.name, err))
		}
		a.accepted = a.accepted || uploaded
		// Where others write too, the shorter the time from read to write is,
		// the less can happen in it.
		if !uploaded || !a.confirming {
			return found, wanted, began, nil
		}
	}
}

// look gets the attachment. The registry's own 404 is the absent one, whatever
// else it says; every other failure is one, or signatures would be lost.
func (a *attaching) look(ctx context.Context) (attachment, error) {
	manifest, err := a.repo.Manifest(ctx, a.tag())
	if errors.Is(err, registry.ErrNotFound) {
		return a.afterLoss(), nil
	}
	if err != nil {
		return attachment{}, fmt.Errorf("reading %s: %w", a.name, err)
	}
	found, err := a.read(a.name, manifest)
	if err != nil {
		return attachment{}, err
	}
	a.seen = found
	return found, nil
}

// afterLoss is what to go on from when there is no attachment: nothing, unless
// it was there before a write of ours that failed. zot deletes the manifest of
// a tag when writing another one goes wrong, and the others' signatures in it
// would be gone for good.
func (a *attaching) afterLoss() attachment {
	if !a.unsettled || a.seen.absent() {
		return attachment{}
	}
	a.options.Log.Warn("the registry lost an attachment when writing to it failed, it is written again",
		zap.String("attachment", a.name), zap.Stringer("lost", a.seen.digest))
	return a.seen
}

// put writes the attachment. Its deadline ends before the lease does, and runs
// only while the write is under way: what waits for its turn at the host can
// do no harm, and how long is left of the lease is asked when the turn has come.
//
// A write that is under way outlives the end of ctx for a while. Cut off, it
// might land when the lock is somebody else's already, over signatures that
// were not there when it was made.
func (a *attaching) put(ctx context.Context, lease Lease, body []byte) error {
	writing, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	endAfter := func(d time.Duration) (stop func() bool) {
		return context.AfterFunc(ctx, func() {
			timer := time.AfterFunc(d, func() { cancel(context.Cause(ctx)) })
			context.AfterFunc(writing, func() { timer.Stop() })
		})
	}
	waiting := endAfter(0)
	defer func() { waiting() }()
	return a.repo.PutManifest(writing, a.tag(), a.mediaType(), body, func() (end func(), err error) {
		if waiting(); ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if lease.Left() < a.options.leaseMargin() {
			return nil, errLeaseShort
		}
		within := a.options.writeTimeout()
		late := time.AfterFunc(within, func() {
			cancel(fmt.Errorf("not written within %s: %w", within, context.DeadlineExceeded))
		})
		finishing := endAfter(a.options.finishTimeout())
		return func() {
			late.Stop()
			finishing()
			waiting = endAfter(0) // for the next turn, if it has to be sent again
		}, nil
	})
}

// judge tells what a failed write means: the end, or another turn, which
// begins with reading what became of it.
func (a *attaching) judge(ctx context.Context, found attachment, failure error) error {
	if errors.Is(failure, errLeaseShort) {
		return &againError{errLeaseShort}
	}
	failure = fmt.Errorf("writing %s: %w", a.name, failure)
	var answer *registry.Error
	answered := errors.As(failure, &answer)
	switch {
	case ctx.Err() != nil:
		return failure
	case answered && a.immutable(ctx, found, answer):
		return &ImmutableError{Attachment: a.name, Err: failure}
	case answered && answer.RetryAfter > 0:
		// Waiting is up to the caller, and whoever tries next reads first.
		return failure
	case registry.OutcomeUnknown(failure):
		a.unknown = append(a.unknown, failure)
		a.unsettled = true
		return &againError{failure}
	}
	return a.refused(failure)
}

// refused is the end, unless there is another way to write the same.
func (a *attaching) refused(failure error) error {
	var answer *registry.Error
	switch {
	case !errors.As(failure, &answer) || answer.Status == 0:
		return failure
	case a.adapt(answer):
		return &againError{failure}
	case lacksBlob(answer):
		return &ConflictError{Attachment: a.name, Err: failure,
			Reason: "it names something that the registry does not have, and is not ours to leave out: push that again, or delete the tag and have all sign again"}
	}
	return failure
}

// immutable tells that the tag must not change. Docker Hub says no more than
// that it is forbidden: where the tag is there and the repository takes blobs
// from us, that is the only reason left.
func (a *attaching) immutable(ctx context.Context, found attachment, answer *registry.Error) bool {
	if answer.Immutable() {
		return true
	}
	if answer.Status != http.StatusForbidden || answer.Foreign || found.absent() {
		return false
	}
	return a.accepted || a.repo.PutBlob(ctx, []byte(emptyConfig)) == nil
}

// lacksBlob tells the refusal of a manifest that names an unknown blob or
// manifest.
func lacksBlob(answer *registry.Error) bool {
	return slices.ContainsFunc(answer.Codes, func(d registry.Diagnostic) bool {
		return d.Code == "MANIFEST_BLOB_UNKNOWN" || d.Code == "BLOB_UNKNOWN" || d.Code == "MANIFEST_UNKNOWN"
	})
}

// unlock gives the turn back. A failure keeps others waiting until the lease
// ends by itself; the signing is done all the same.
func (a *attaching) unlock(lease Lease) {
	if err := lease.Unlock(); err != nil {
		a.options.Log.Warn("unlocking an attachment", zap.String("attachment", a.name), zap.Error(err))
	}
}
