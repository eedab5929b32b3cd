package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

// referring are the signatures of one manifest in the format "referrer": a
// bundle by each key, attached by a manifest that refers to it.
type referring struct {
	*Signer
	repo    attachmentStore
	to      target
	each    []*keyBundle
	at      time.Time // to record
	bundles *bundleReader

	looked bool // whether the referrers were seen once
}

// keyBundle is the signature by one key. It is made when it turns out to be
// missing, and only once.
type keyBundle struct {
	key      *Key
	made     *referrer
	digest   digest.Digest // of the manifest around it, once it is known
	stored   bool          // the registry has the manifest
	already  bool
	mistrust bool // the registry lacked what it should have had
}

func (s *Signer) newReferring(p piece) *referring {
	r := &referring{Signer: s, repo: p.repo, to: p.target, at: unrecordedTime,
		bundles: newBundleReader(p.repo, p.digest, slices.Concat(publicKeys(p.keys), s.options.Replaced))}
	if s.options.Timestamps {
		r.at = s.options.Now()
	}
	for _, key := range p.keys {
		r.each = append(r.each, &keyBundle{key: key})
	}
	return r
}

// foreseen tells that the bundle of a key is known before it is looked for: the
// same key has always made, and always will make, the same bytes.
func (r *referring) foreseen(one *keyBundle) bool {
	return one.key.deterministic() && !r.options.Timestamps
}

// sign makes the bundle of a key, once.
func (r *referring) sign(ctx context.Context, one *keyBundle) error {
	if one.made != nil {
		return nil
	}
	body, err := newBundle(ctx, one.key, r.to.digest, r.options.Annotations)
	if err != nil {
		return err
	}
	made, err := newReferrer(r.to, body, r.at)
	if err != nil {
		return err
	}
	// What was found by another name is another's from now on.
	one.made, one.digest, one.stored = &made, made.entry.Digest, false
	return nil
}

// find looks for bundles of the keys among referrers.
func (r *referring) find(ctx context.Context, entries []oci.Descriptor, one *keyBundle) (bool, error) {
	found, err := r.bundles.by(ctx, entries, one.key.Public())
	for _, bundle := range found {
		if claimsAll(bundle.claims, r.options.Annotations) {
			one.digest, one.stored = bundle.digest, true
			return true, nil
		}
	}
	return false, err
}

// attachByAPI attaches the bundles where the registry itself lists what refers
// to a manifest: nobody else's write can touch ours, so there is nothing to lock.
func (r *referring) attachByAPI(ctx context.Context) error {
	if err := r.findUnforeseen(ctx); err != nil {
		return err
	}
	err := r.forEach(func(one *keyBundle) error {
		if one.stored {
			return nil
		}
		if r.foreseen(one) {
			if err := r.lookFor(ctx, one); err != nil || one.stored {
				one.already = one.stored
				return err
			}
		}
		return r.put(ctx, one)
	})
	if err != nil {
		return err
	}
	return r.removeReplaced(ctx)
}

// forEach does the work for each key, side by side.
func (r *referring) forEach(work func(one *keyBundle) error) error {
	var group errgroup.Group
	for _, one := range r.each {
		group.Go(guarded(func() error { return work(one) }))
	}
	return group.Wait()
}

// findUnforeseen looks into all that refers to the image for the bundles that
// cannot be asked for by their digest.
func (r *referring) findUnforeseen(ctx context.Context) error {
	var entries []oci.Descriptor
	listed := false
	for _, one := range r.each {
		if one.stored || r.foreseen(one) {
			continue
		}
		var err error
		if !listed {
			if entries, err = r.repo.Referrers(ctx, r.to.digest); err != nil {
				return fmt.Errorf("listing the referrers of %s: %w", r.to.digest, err)
			}
			listed = true
		}
		if one.already, err = r.find(ctx, entries, one); err != nil {
			return err
		}
	}
	return nil
}

// lookFor asks whether the manifest around a bundle is there.
func (r *referring) lookFor(ctx context.Context, one *keyBundle) error {
	err := r.sign(ctx, one)
	if err != nil {
		return err
	}
	if one.stored, err = r.repo.Has(ctx, one.digest); err != nil {
		return fmt.Errorf("looking for %s@%s: %w", r.repo.Name(), one.digest, err)
	}
	return nil
}

// put uploads a bundle and the manifest around it.
func (r *referring) put(ctx context.Context, one *keyBundle) error {
	if err := r.sign(ctx, one); err != nil {
		return err
	}
	group, uploading := errgroup.WithContext(ctx)
	group.Go(guarded(func() error { return r.repo.PutBlob(uploading, one.made.bundle) }))
	group.Go(guarded(func() error {
		if one.mistrust {
			return r.repo.PutBlob(uploading, []byte(emptyConfig))
		}
		return r.repo.PutConstant(uploading, []byte(emptyConfig))
	}))
	err := group.Wait()
	if err == nil {
		err = r.putManifest(ctx, one)
	}
	var answer *registry.Error
	if errors.As(err, &answer) && lacksBlob(answer) && !one.mistrust {
		one.mistrust = true
		return r.put(ctx, one)
	}
	if err != nil {
		return fmt.Errorf("attaching %s@%s: %w", r.repo.Name(), one.digest, err)
	}
	one.stored = true
	return nil
}

// confirmStored sees to it that the registry has kept the bundles that it said
// it has stored, now or an earlier time. Nobody else writes to them, so there is no
// time to wait for.
func (r *referring) confirmStored(ctx context.Context) error {
	return r.forEach(func(one *keyBundle) error {
		if one.already && !r.foreseen(one) {
			return nil // it cannot be made again as it was
		}
		for range maxTurns {
			if err := r.lookFor(ctx, one); err != nil || one.stored {
				return err
			}
			r.options.Log.Info("attaching once more", zap.String("attachment", r.repo.Name()+"@"+one.digest.String()), zap.NamedError("because", errNotKept))
			one.mistrust = true
			if err := r.put(ctx, one); err != nil {
				return err
			}
		}
		return &ConflictError{Attachment: r.repo.Name() + "@" + one.digest.String(), Reason: fmt.Sprintf("not written in %d tries", maxTurns), Err: errNotKept}
	})
}

// putManifest writes the manifest. Its name is its digest: a write of unknown
// outcome is looked for, and repeated without harm.
func (r *referring) putManifest(ctx context.Context, one *keyBundle) error {
	var failure error
	for range maxUnknown {
		failure = r.repo.PutManifest(ctx, one.digest.String(), oci.MediaTypeImageManifest, one.made.body, nil)
		if failure == nil || ctx.Err() != nil || !registry.OutcomeUnknown(failure) {
			return failure
		}
		if has, err := r.repo.Has(ctx, one.digest); err == nil && has {
			return nil
		}
	}
	return failure
}

// removeReplaced removes the bundles by old keys. A registry may not let
// anybody do that; then they stay, and it is said.
func (r *referring) removeReplaced(ctx context.Context) error {
	if len(r.options.Replaced) == 0 {
		return nil
	}
	entries, err := r.repo.Referrers(ctx, r.to.digest)
	if err != nil {
		return fmt.Errorf("listing the referrers of %s: %w", r.to.digest, err)
	}
	old, err := r.replaced(ctx, entries)
	if err != nil {
		return err
	}
	for _, bundle := range old {
		if err := r.repo.DeleteManifest(ctx, bundle.digest); err != nil {
			if ctx.Err() != nil {
				return err
			}
			r.options.Log.Warn("a signature by a replaced key stays, the registry does not remove it",
				zap.String("attachment", r.repo.Name()+"@"+bundle.digest.String()), zap.Error(err))
		}
	}
	return nil
}

// replaced are the bundles by old keys that say no more than ours do.
func (r *referring) replaced(ctx context.Context, entries []oci.Descriptor) ([]*keptBundle, error) {
	var all []*keptBundle
	for _, key := range r.options.Replaced {
		old, err := r.bundles.by(ctx, entries, key)
		if err != nil {
			return nil, err
		}
		all = append(all, slices.DeleteFunc(old, func(b *keptBundle) bool { return !claimsNoMore(b.claims, r.options.Annotations) })...)
	}
	return all, nil
}

// results are the signatures.
func (r *referring) results() []Signature {
	var all []Signature
	for _, one := range r.each {
		all = append(all, Signature{
			Digest: r.to.digest.String(), Key: one.key.Fingerprint(), Format: string(FormatReferrer),
			Attachment: one.digest.String(), Already: one.already,
		})
	}
	return all
}
