package sign

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

// maxReads bounds what of one attachment is read side by side.
const maxReads = 4

// finder looks for the signatures of the manifests of one image, wherever
// verifiers look for them. What one of them is like is told of that one alone:
// nothing that somebody has attached keeps the others from being found.
type finder struct {
	repo   referrerReader
	keys   []*PublicKey
	claims map[string]string // that are asked for
	left   atomic.Int64      // how many more are looked at
}

func newFinder(repo referrerReader, keys []*PublicKey, claims map[string]string) *finder {
	f := &finder{repo: repo, keys: keys, claims: claims}
	f.left.Store(maxFound)
	return f
}

// find looks under the tag and among the referrers, side by side. What it
// returns stands in the order of the registry, those under the tag first.
func (f *finder) find(ctx context.Context, manifest digest.Digest) (all []Found, err error) {
	var tagged, bundles []Found
	var bundled bool
	var group errgroup.Group
	group.Go(guarded(func() error {
		tagged = f.tagged(ctx, manifest)
		return nil
	}))
	group.Go(guarded(func() error {
		bundles, bundled = f.referring(ctx, manifest)
		return nil
	}))
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		// What was not read by then says nothing of the image.
		return nil, fmt.Errorf("looking for the signatures of %s: %w", manifest, context.Cause(ctx))
	}
	all = append(tagged, bundles...)
	noteHidden(all, bundled)
	return all, nil
}

// tagged looks at the attachment under the tag.
func (f *finder) tagged(ctx context.Context, manifest digest.Digest) []Found {
	around, err := f.repo.Manifest(ctx, attachmentTag(manifest))
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	if err != nil {
		return []Found{Found{Format: FormatTag}.failed("the attachment", err)}
	}
	each := Found{Format: FormatTag, Attachment: around.Digest.String()}
	if kind, err := kindOf("", around.MediaType); err != nil || kind != manifestKind {
		return []Found{each.broken("something of type %.128q is under the tag", around.MediaType)}
	}
	read, err := parseAttachment(around, "layers")
	if err != nil {
		return []Found{each.broken("the attachment cannot be read: %v", err)}
	}
	if len(read.entries) > maxLayers {
		return []Found{each.broken("the attachment has %d layers, and cosign refuses more than %d", len(read.entries), maxLayers)}
	}
	if around.MediaType == dockerManifest {
		each = each.broken("the attachment is of Docker's media type")
		each.stops = true
	}
	return f.each(each, read.entries, func(layer oci.Descriptor) (Found, bool) {
		if layer.MediaType != simpleSigningType {
			return f.foreignLayer(ctx, each, layer)
		}
		return f.layer(ctx, each, layer, manifest), true
	})
}

// foreignLayer looks at a layer that is no signature. That it cannot be read is
// nothing to cosign, but containers/image reads it all the same.
func (f *finder) foreignLayer(ctx context.Context, found Found, layer oci.Descriptor) (Found, bool) {
	found.foreign = true
	what := fmt.Sprintf("the layer %.128s, which is no signature,", layer.Digest)
	if layer.Digest.Validate() != nil {
		found = found.broken("%s has no digest to be found by", what)
		found.stops = true
		return found, true
	}
	_, err := f.repo.Blob(ctx, layer.Digest, maxPayload)
	return found.failed(what, err), err != nil
}

// layer looks at one signature under a tag.
func (f *finder) layer(ctx context.Context, found Found, layer oci.Descriptor, manifest digest.Digest) Found {
	text, ok := layer.Annotations[signatureAnnotation]
	if !ok {
		return found.broken("the layer %.128s has no signature with it", layer.Digest)
	}
	made, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return found.broken("the signature is not in base64")
	}
	if layer.Digest.Validate() != nil {
		return found.broken("the payload has no digest to be found by")
	}
	payload, err := f.repo.Blob(ctx, layer.Digest, maxPayload)
	if err != nil {
		return found.failed("the payload", err)
	}
	if layer.Size != int64(len(payload)) {
		return found.broken("the payload has %d bytes and not the %d that are said: cosign refuses it", len(payload), layer.Size)
	}
	for _, key := range f.keys {
		if key.verifies(made, payload) {
			found = found.by(key)
			break
		}
	}
	claim, err := readPayload(payload)
	if err != nil {
		return found.broken("%v", err)
	}
	found.Identity = shown(claim.identity)
	if claim.manifest != manifest {
		return found.broken("it is a signature of %.128s", claim.manifest)
	}
	return found.claiming(claim.annotations, f.claims)
}

// referring looks at the bundles among the referrers. bundled tells whether
// there is one that cosign takes for a bundle, whatever is in it.
func (f *finder) referring(ctx context.Context, manifest digest.Digest) (all []Found, bundled bool) {
	entries, err := listReferrers(ctx, f.repo, manifest)
	if err != nil {
		return []Found{Found{Format: FormatReferrer}.failed("the list of referrers", err)}, false
	}
	entries = distinct(entries)
	var cut []Found
	if len(entries) > maxReferrers {
		cut = []Found{Found{Format: FormatReferrer}.broken("there are %d referrers, of which the first %d were looked at", len(entries), maxReferrers)}
		entries = entries[:maxReferrers]
	}
	var any atomic.Bool
	all = f.each(Found{Format: FormatReferrer}, entries, func(entry oci.Descriptor) (Found, bool) {
		if entry.Digest.Validate() != nil {
			return Found{}, false
		}
		found, ok, bundle := f.bundle(ctx, entry, manifest)
		if bundle {
			any.Store(true)
		}
		return found, ok
	})
	return append(all, cut...), any.Load()
}

// bundle looks at one referrer, which need not be a bundle.
func (f *finder) bundle(ctx context.Context, entry oci.Descriptor, manifest digest.Digest) (found Found, ok, bundle bool) {
	found = Found{Format: FormatReferrer, Attachment: entry.Digest.String()}
	around, err := f.repo.Manifest(ctx, entry.Digest.String())
	if err != nil {
		// Unless it says so, nobody knows that it would have been a bundle.
		return found.failed("the referrer", err), !isNothing(err) || strings.HasPrefix(entry.ArtifactType, bundleTypePrefix), false
	}
	layer, ok := bundleLayer(around)
	if !ok {
		return Found{}, false, false
	}
	body, err := f.repo.Blob(ctx, layer.Digest, maxBundle)
	if err != nil {
		return found.failed("the bundle", err), true, false
	}
	read, err := parseBundle(body)
	found.Key = claimedKey(read.hint)
	if err != nil {
		return found.broken("%v", err), true, read.counts
	}
	return f.statement(found, read, manifest), true, true
}

// statement looks at what a bundle says.
func (f *finder) statement(found Found, read foundBundle, manifest digest.Digest) Found {
	if read.predicateType != signPredicateType {
		found.Attests = shown(read.predicateType)
		if found.Attests == "" {
			found.Attests = "nothing"
		}
		for _, key := range f.keys {
			if key.verifies(read.signature, read.signed) {
				return found.by(key)
			}
		}
		return found
	}
	subject, ok := read.about(manifest)
	if !ok {
		return found.broken("it is a signature of something else")
	}
	found = found.claiming(subject.claims, f.claims)
	for _, key := range f.keys {
		if read.verifiedBy(key, manifest) != nil {
			if found.Key == key.Fingerprint() {
				found.Problem = "it claims to be by this key, which does not verify it"
			}
			continue
		}
		found = found.by(key)
		found.Problem = ""
		if read.keyID {
			return found.broken("it names a keyid, and cosign refuses that")
		}
		return found
	}
	return found
}

// each looks at entries side by side, and keeps their order. look may be called
// for fewer than there are, when the image has too many.
func (f *finder) each(like Found, entries []oci.Descriptor, look func(oci.Descriptor) (Found, bool)) []Found {
	looked := make([]*Found, len(entries))
	var cut atomic.Bool
	var group errgroup.Group
	group.SetLimit(maxReads)
	for i, entry := range entries {
		group.Go(guarded(func() error {
			if f.left.Add(-1) < 0 {
				cut.Store(true)
				return nil
			}
			if found, ok := look(entry); ok {
				looked[i] = &found
			}
			return nil
		}))
	}
	err := group.Wait()
	var all []Found
	for _, found := range looked {
		if found != nil {
			all = append(all, *found)
		}
	}
	if err != nil {
		all = append(all, like.failed("a signature", err))
	}
	if cut.Load() {
		all = append(all, like.broken("the image has more than the %d signatures that are looked at", maxFound))
	}
	return all
}

// distinct drops the entries that an index lists again.
func distinct(entries []oci.Descriptor) []oci.Descriptor {
	seen := make(map[digest.Digest]bool, len(entries))
	var kept []oci.Descriptor
	for _, entry := range entries {
		if !seen[entry.Digest] {
			seen[entry.Digest] = true
			kept = append(kept, entry)
		}
	}
	return kept
}
