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
		return attachment{}, &ConflictError{Attachment: name, Reason: fmt.Sprintf("found something of type %.128q under the tag of its referrers", found.MediaType)}
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

// listedBundle is a bundle among the referrers of a manifest.
type listedBundle struct {
	digest digest.Digest // of the manifest around it
	foundBundle
}

// readBundle reads the bundle of one referrer. Without an error and without a
// bundle, the referrer is something else.
func readBundle(ctx context.Context, repo imageReader, entry oci.Descriptor) (*listedBundle, error) {
	around, err := repo.Manifest(ctx, entry.Digest.String())
	if err != nil {
		return nil, err
	}
	layer, ok := bundleLayer(around)
	if !ok {
		return nil, nil
	}
	body, err := repo.Blob(ctx, layer.Digest, maxBundle)
	if err != nil {
		return nil, err
	}
	found, err := parseBundle(body)
	if err != nil {
		return nil, &brokenBundleError{err}
	}
	return &listedBundle{digest: entry.Digest, foundBundle: found}, nil
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

// brokenBundleError is a bundle that cannot be read, which is nobody's signature.
type brokenBundleError struct{ err error }

func (e *brokenBundleError) Error() string { return e.err.Error() }
func (e *brokenBundleError) Unwrap() error { return e.err }

// bundlesBy finds the signatures of a manifest by one of the keys among its
// referrers. What is gone, or broken, is passed over.
func bundlesBy(ctx context.Context, repo imageReader, manifest digest.Digest, entries []oci.Descriptor, keys []*PublicKey, known map[digest.Digest]*listedBundle) ([]*listedBundle, error) {
	var found []*listedBundle
	for _, entry := range entries[:min(len(entries), maxReferrers)] {
		if !mayBeBundle(entry) {
			continue
		}
		read, ok := known[entry.Digest]
		if !ok {
			var err error
			if read, err = readBundle(ctx, repo, entry); err != nil && !isNothing(err) {
				return nil, fmt.Errorf("reading the referrer %s: %w", entry.Digest, err)
			}
			known[entry.Digest] = read
		}
		if read != nil && slices.ContainsFunc(keys, func(key *PublicKey) bool { return read.verifiedBy(key, manifest) == nil }) {
			found = append(found, read)
		}
	}
	return found, nil
}

// isNothing tells a failure that says something of the referrer, not of the
// registry.
func isNothing(err error) bool {
	var broken *brokenBundleError
	var mismatch *registry.MismatchError
	var large *registry.TooLargeError
	return errors.Is(err, registry.ErrNotFound) || errors.As(err, &broken) || errors.As(err, &mismatch) || errors.As(err, &large)
}

// carriesBundle tells whether anybody's bundle is attached to a manifest: from
// then on cosign, from version 3, looks at no signature under a tag.
func carriesBundle(ctx context.Context, repo referrerReader, manifest digest.Digest) (bool, error) {
	entries, err := listReferrers(ctx, repo, manifest)
	if err != nil {
		return false, err
	}
	for _, entry := range entries[:min(len(entries), maxReferrers)] {
		if !mayBeBundle(entry) {
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
