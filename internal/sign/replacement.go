package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/signfleet/signfleet/internal/registry"
)

// maxPayload is the longest payload that containers/image reads.
const maxPayload = 4 << 20

// replacement finds the signatures by old keys that ours stand in for: those
// that call the image the same, and those that name only its repository, as
// cosign's do. What an old key said of the image's other tags is not ours to
// take away before we say it ourselves.
type replacement struct {
	repo     imageReader
	manifest digest.Digest
	names    []string
	keys     []*PublicKey
	payloads map[digest.Digest][]byte // read so far
}

func newReplacement(repo imageReader, manifest digest.Digest, names []string, keys []*PublicKey) *replacement {
	return &replacement{repo: repo, manifest: manifest, names: names, keys: keys, payloads: map[digest.Digest][]byte{}}
}

// layers are the places of those signatures in an attachment.
func (r *replacement) layers(ctx context.Context, found attachment) ([]int, error) {
	var places []int
	for i, layer := range found.entries {
		if layer.MediaType != simpleSigningType || layer.Digest.Validate() != nil {
			continue
		}
		payload, err := r.payload(ctx, layer)
		if err != nil {
			return nil, err
		}
		if r.replaces(layer, payload) {
			places = append(places, i)
		}
	}
	return places, nil
}

// payload reads a payload once. One that is gone, or is not what its digest
// says, is nobody's signature.
func (r *replacement) payload(ctx context.Context, layer oci.Descriptor) ([]byte, error) {
	payload, read := r.payloads[layer.Digest]
	if read {
		return payload, nil
	}
	payload, err := r.repo.Blob(ctx, layer.Digest, maxPayload)
	var mismatch *registry.MismatchError
	var large *registry.TooLargeError
	switch {
	case errors.Is(err, registry.ErrNotFound), errors.As(err, &mismatch), errors.As(err, &large):
		payload = nil
	case err != nil:
		return nil, fmt.Errorf("reading what an old key signed: %w", err)
	}
	r.payloads[layer.Digest] = payload
	return payload, nil
}

// replaces tells whether the signature is by an old key and says what ours says.
func (r *replacement) replaces(layer oci.Descriptor, payload []byte) bool {
	var said simpleSigning
	if json.Unmarshal(payload, &said) != nil || said.Critical.Image.DockerManifestDigest != r.manifest {
		return false
	}
	name := said.Critical.Identity.DockerReference
	same := slices.ContainsFunc(r.names, func(ours string) bool { return ours == name || repositoryOf(ours) == name })
	return same && slices.ContainsFunc(r.keys, func(key *PublicKey) bool {
		return isSignatureBy(layer, key, payload, layer.Digest)
	})
}
