package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/signfleet/signfleet/internal/registry"
)

// maxBundle is the longest bundle that is read.
const maxBundle = 4 << 20

// maxReferrers bounds the referrers of one manifest that are looked into.
const maxReferrers = 1000

// referrerReader reads what refers to a manifest.
type referrerReader interface {
	imageReader
	HasReferrersAPI(ctx context.Context, subject digest.Digest) (bool, error)
	Referrers(ctx context.Context, subject digest.Digest) ([]oci.Descriptor, error)
}

// listReferrers lists what refers to a manifest: by the referrers API where
// there is one, else by the index under the fallback tag.
func listReferrers(ctx context.Context, repo referrerReader, manifest digest.Digest) ([]oci.Descriptor, error) {
	api, err := repo.HasReferrersAPI(ctx, manifest)
	if err != nil {
		return nil, err
	}
	if api {
		return repo.Referrers(ctx, manifest)
	}
	tag := fallbackTagOf(manifest)
	found, err := repo.Manifest(ctx, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	index, err := readReferrersIndex(tag, found)
	return index.entries, err
}

// fallbackTagOf is the tag of the index that lists the referrers of a manifest.
func fallbackTagOf(manifest digest.Digest) string {
	return strings.Replace(manifest.String(), ":", "-", 1)
}

// readReferrersIndex reads what was found under the fallback tag. The
// specification wants something other than an index to be left alone.
func readReferrersIndex(name string, found registry.Manifest) (attachment, error) {
	if found.MediaType != oci.MediaTypeImageIndex {
		return attachment{}, &ConflictError{Attachment: name, Reason: fmt.Sprintf("found something of type %.128q under the tag of its referrers: delete or rename it", found.MediaType)}
	}
	index, err := parseAttachment(found, "manifests")
	if err != nil {
		return attachment{}, &ConflictError{Attachment: name, Reason: "its index of referrers cannot be read: " + err.Error()}
	}
	return index, nil
}

// mayBeBundle tells which referrers are worth a look. What an index says of the
// artifact type is not always true: earlier versions of cosign wrote that of the
// config there.
func mayBeBundle(entry oci.Descriptor) bool {
	switch entry.ArtifactType {
	case "", oci.MediaTypeEmptyJSON, oci.MediaTypeImageConfig:
		return entry.Digest.Validate() == nil
	}
	return strings.HasPrefix(entry.ArtifactType, bundleTypePrefix) && entry.Digest.Validate() == nil
}

// keptBundle is a bundle that one of the keys has signed a manifest with.
type keptBundle struct {
	digest digest.Digest // of the manifest around it
	keys   []*PublicKey  // that verify it
	claims map[string]json.RawMessage
}

func (b *keptBundle) by(key *PublicKey) bool {
	return slices.ContainsFunc(b.keys, func(k *PublicKey) bool { return k.Fingerprint() == key.Fingerprint() })
}

// bundleReader reads the bundles among the referrers of a manifest, each once. It
// keeps no others than those by its keys: there can be many, and large ones.
type bundleReader struct {
	repo     imageReader
	manifest digest.Digest
	keys     []*PublicKey
	read     map[digest.Digest]*keptBundle // nil where there is none by the keys
}

func newBundleReader(repo imageReader, manifest digest.Digest, keys []*PublicKey) *bundleReader {
	return &bundleReader{repo: repo, manifest: manifest, keys: keys, read: map[digest.Digest]*keptBundle{}}
}

// by finds the signatures of the manifest by one of the reader's keys. What is
// gone, or broken, is passed over.
func (r *bundleReader) by(ctx context.Context, entries []oci.Descriptor, key *PublicKey) ([]*keptBundle, error) {
	var found []*keptBundle
	for _, entry := range entries[:min(len(entries), maxReferrers)] {
		if !mayBeBundle(entry) {
			continue
		}
		bundle, ok := r.read[entry.Digest]
		if !ok {
			var err error
			if bundle, err = r.look(ctx, entry); err != nil && !isNothing(err) {
				return nil, fmt.Errorf("reading the referrer %s: %w", entry.Digest, err)
			}
			r.read[entry.Digest] = bundle
		}
		if bundle != nil && bundle.by(key) {
			found = append(found, bundle)
		}
	}
	return found, nil
}

// look reads one referrer, which need not be a bundle.
func (r *bundleReader) look(ctx context.Context, entry oci.Descriptor) (*keptBundle, error) {
	around, err := r.repo.Manifest(ctx, entry.Digest.String())
	if err != nil {
		return nil, err
	}
	layer, ok := bundleLayer(around)
	if !ok {
		return nil, nil
	}
	body, err := r.repo.Blob(ctx, layer.Digest, maxBundle)
	if err != nil {
		return nil, err
	}
	found, err := parseBundle(body)
	about, ok := found.about(r.manifest)
	if err != nil || !ok || found.keyID {
		return nil, nil // nobody's signature
	}
	bundle := &keptBundle{digest: entry.Digest, claims: about.claims}
	for _, key := range r.keys {
		if found.verifiedBy(key, r.manifest) == nil {
			bundle.keys = append(bundle.keys, key)
		}
	}
	if len(bundle.keys) == 0 {
		return nil, nil
	}
	return bundle, nil
}

// bundleLayer is the layer that cosign takes for a bundle: the only one.
func bundleLayer(around registry.Manifest) (oci.Descriptor, bool) {
	var read content
	if json.Unmarshal(around.Body, &read) != nil || len(read.Layers) != 1 {
		return oci.Descriptor{}, false
	}
	layer := read.Layers[0]
	return layer, strings.HasPrefix(layer.MediaType, bundleTypePrefix) && layer.Digest.Validate() == nil
}

// isNothing tells a failure that says something of the referrer, not of the
// registry.
func isNothing(err error) bool {
	var mismatch *registry.MismatchError
	var large *registry.TooLargeError
	return errors.Is(err, registry.ErrNotFound) || errors.As(err, &mismatch) || errors.As(err, &large)
}

// hiddenKeys are those of the keys whose signatures under a tag are hidden: from
// the first bundle on, of anybody, cosign looks at no tag from version 3 on. A
// key that has a bundle of its own is found by that.
func hiddenKeys(ctx context.Context, repo referrerReader, manifest digest.Digest, keys []*Key) ([]string, error) {
	entries, err := listReferrers(ctx, repo, manifest)
	if err != nil {
		return nil, err
	}
	if bundled, err := carryBundle(ctx, repo, entries); err != nil || !bundled {
		return nil, err
	}
	var hidden []string
	bundles := newBundleReader(repo, manifest, publicKeys(keys))
	for _, key := range keys {
		own, err := bundles.by(ctx, entries, key.Public())
		if err != nil {
			return nil, err
		}
		if len(own) == 0 {
			hidden = append(hidden, key.Fingerprint())
		}
	}
	return hidden, nil
}

func publicKeys(keys []*Key) []*PublicKey {
	var public []*PublicKey
	for _, key := range keys {
		public = append(public, key.Public())
	}
	return public
}

// carryBundle tells whether one of the referrers is a bundle, of anybody. cosign
// does not ask what an index says of the artifact type, but looks.
func carryBundle(ctx context.Context, repo referrerReader, entries []oci.Descriptor) (bool, error) {
	for _, entry := range entries[:min(len(entries), maxReferrers)] {
		if entry.Digest.Validate() != nil {
			continue
		}
		if entry.ArtifactType == bundleType {
			return true, nil
		}
		around, err := repo.Manifest(ctx, entry.Digest.String())
		switch {
		case err == nil:
			if _, ok := bundleLayer(around); ok {
				return true, nil
			}
		case !isNothing(err):
			return false, err
		}
	}
	return false, nil
}
