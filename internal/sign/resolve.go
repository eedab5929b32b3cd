package sign

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/signfleet/signfleet/internal/registry"
)

// kind is what a manifest is, as far as signing cares.
type kind int

const (
	manifestKind kind = iota + 1
	indexKind
)

const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerImageConfig  = "application/vnd.docker.container.image.v1+json"
	dockerSchema1      = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1JWS   = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// resolved is the manifest that a reference led to, read as far as selecting
// needs it. Its digest, not its tag, names it from here on.
type resolved struct {
	source
	kind    kind
	digest  digest.Digest
	content content

	mediaType string // as the registry says
	size      int64
}

// content is what manifests and indexes say of themselves.
type content struct {
	MediaType    string           `json:"mediaType"`
	ArtifactType string           `json:"artifactType"`
	Subject      *oci.Descriptor  `json:"subject"`
	Config       *oci.Descriptor  `json:"config"`
	Layers       []oci.Descriptor `json:"layers"`
	Manifests    []oci.Descriptor `json:"manifests"`
}

// resolve reads the manifest of a reference, with one request, and holds it
// against the pins.
func resolve(ctx context.Context, repo imageReader, src source) (resolved, error) {
	found, err := repo.Manifest(ctx, src.lookup)
	if err != nil {
		return resolved{}, fmt.Errorf("resolving %s: %w", src.given, err)
	}
	img := resolved{source: src, digest: found.Digest, mediaType: found.MediaType, size: int64(len(found.Body))}
	if img.kind, err = kindOf(src.given, found.MediaType); err != nil {
		return resolved{}, err
	}
	for _, pin := range src.pins {
		// By the pin's own algorithm: it need not be the one of the digest found.
		if is := pin.Algorithm().FromBytes(found.Body); is != pin {
			return resolved{}, &MismatchError{Reference: src.given, Pinned: pin, Found: is}
		}
	}
	if err := img.read(found); err != nil {
		return resolved{}, err
	}
	return img, nil
}

// kindOf sorts media types; a type that is none of an image's is refused, since
// nobody can say what a signature on it would mean.
func kindOf(reference, mediaType string) (kind, error) {
	switch mediaType {
	case oci.MediaTypeImageManifest, dockerManifest:
		return manifestKind, nil
	case oci.MediaTypeImageIndex, dockerManifestList:
		return indexKind, nil
	case dockerSchema1, dockerSchema1JWS:
		return 0, &UnsupportedError{Reference: reference, MediaType: mediaType,
			Reason: "Docker schema 1 cannot be signed, push the image again with a current tool"}
	}
	return 0, &UnsupportedError{Reference: reference, MediaType: mediaType, Reason: "neither an image manifest nor an index"}
}

// read decodes the manifest, and refuses one that a reader could take for
// either kind: such a signature would be valid for both (CVE-2021-41190).
func (r *resolved) read(found registry.Manifest) error {
	ambiguous := func(reason string) error {
		return &UnsupportedError{Reference: r.given, MediaType: found.MediaType, Reason: reason}
	}
	if err := json.Unmarshal(found.Body, &r.content); err != nil {
		return ambiguous("the manifest is not the JSON it should be")
	}
	said := r.content.MediaType
	if said != "" && said != found.MediaType {
		return ambiguous(fmt.Sprintf("the manifest calls itself %.128q", said))
	}
	isManifest, isIndex := r.content.Config != nil || r.content.Layers != nil, r.content.Manifests != nil
	if isManifest && isIndex || isManifest && r.kind == indexKind || isIndex && r.kind == manifestKind {
		return ambiguous("the manifest has the fields of another kind")
	}
	if r.kind == manifestKind && r.content.Config == nil {
		return ambiguous("the manifest has no config")
	}
	return nil
}

// notAnImage says why the manifest, though well-formed, is nothing to sign;
// empty when it is an image. Signing must never sign signatures.
func (r *resolved) notAnImage() string {
	c := r.content
	switch {
	case c.Subject != nil:
		return "attached to another manifest (it has a subject)"
	case c.ArtifactType != "" && !isImageConfig(c.ArtifactType):
		return fmt.Sprintf("an artifact of type %.128q", c.ArtifactType)
	case r.kind == indexKind && isFallback(r.lookup):
		return "an index of referrers"
	case r.kind == indexKind:
		return ""
	case !isImageConfig(c.Config.MediaType):
		return fmt.Sprintf("not an image: its config is of type %.128q", c.Config.MediaType)
	}
	for _, layer := range c.Layers {
		if isAttachedLayer(layer.MediaType) {
			return fmt.Sprintf("an attachment: it has a layer of type %.128q", layer.MediaType)
		}
	}
	return ""
}

// isImageConfig tells the configs of images from those of all else that is
// stored in registries.
func isImageConfig(mediaType string) bool {
	return mediaType == oci.MediaTypeImageConfig || mediaType == dockerImageConfig
}

// isAttachedLayer tells the layers of signatures, attestations and bills of
// materials. cosign and buildkit wrap them in manifests that have the config
// of an image, so that the layers alone give them away.
func isAttachedLayer(mediaType string) bool {
	for _, prefix := range []string{
		simpleSigningType,
		"application/vnd.dev.sigstore.bundle",
		"application/vnd.dsse.envelope",
		"application/vnd.in-toto",
		"application/vnd.cyclonedx",
		"application/vnd.syft",
		"application/spdx",
		"text/spdx",
	} {
		if strings.HasPrefix(mediaType, prefix) {
			return true
		}
	}
	return false
}
