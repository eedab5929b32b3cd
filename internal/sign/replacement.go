package sign

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxPayload is the longest payload that containers/image reads.
	maxPayload = 4 << 20
	// maxReplaced is longer than any that says what ours says.
	maxReplaced = 64 << 10
)

// replacement finds the signatures by old keys that ours stand in for: those
// that call the image the same, and those that name only its repository, as
// cosign's do, and claim nothing that ours do not. What an old key said of the
// image beyond that is not ours to take away before we say it ourselves.
type replacement struct {
	repo     imageReader
	manifest digest.Digest
	names    []string
	claims   map[string]string
	keys     []*PublicKey
	payloads map[digest.Digest][]byte // of those that say what ours say, nil for others
}

func newReplacement(repo imageReader, manifest digest.Digest, names []string, o Options) *replacement {
	return &replacement{repo: repo, manifest: manifest, names: names, claims: o.Annotations, keys: o.Replaced, payloads: map[digest.Digest][]byte{}}
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
		if payload != nil && r.signedByOld(layer, payload) {
			places = append(places, i)
		}
	}
	return places, nil
}

// payload reads a payload once. It is nil where that says something else than ours
// do, or is not there, or is not what its digest says.
func (r *replacement) payload(ctx context.Context, layer oci.Descriptor) ([]byte, error) {
	payload, read := r.payloads[layer.Digest]
	if read {
		return payload, nil
	}
	payload, err := r.repo.Blob(ctx, layer.Digest, maxReplaced)
	if err != nil && !isNothing(err) {
		return nil, fmt.Errorf("reading what an old key signed: %w", err)
	}
	if err != nil || !r.says(payload) {
		payload = nil
	}
	r.payloads[layer.Digest] = payload
	return payload, nil
}

// says tells whether a payload says what ours say, and no more.
func (r *replacement) says(payload []byte) bool {
	var said simpleSigning
	claims := map[string]json.RawMessage{}
	said.Optional = &claims
	if json.Unmarshal(payload, &said) != nil || said.Critical.Image.DockerManifestDigest != r.manifest {
		return false
	}
	name := said.Critical.Identity.DockerReference
	return claimsNoMore(claims, r.claims) && slices.ContainsFunc(r.names, func(ours string) bool { return ours == name || repositoryOf(ours) == name })
}

func (r *replacement) signedByOld(layer oci.Descriptor, payload []byte) bool {
	return slices.ContainsFunc(r.keys, func(key *PublicKey) bool {
		return isSignatureBy(layer, key, payload, layer.Digest)
	})
}
