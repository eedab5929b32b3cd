package sign

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/signfleet/signfleet/internal/registry"
)

const (
	simpleSigningType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"

	// cosign verifies no attachment with more layers than this.
	maxLayers = 1000
)

// readAttachment reads what was found under the tag of an image's signatures. It
// refuses what it could not add to without loss.
func readAttachment(name string, found registry.Manifest) (attachment, error) {
	conflict := func(reason string) error { return &ConflictError{Attachment: name, Reason: reason} }
	switch found.MediaType {
	case oci.MediaTypeImageManifest:
	case dockerManifest:
		// containers/image fails on it, so that adding to it would not help who
		// pulls with a policy; turning it into another type is not ours to do.
		return attachment{}, &UnsupportedError{Reference: name, MediaType: found.MediaType,
			Reason: "signatures written with COSIGN_DOCKER_MEDIA_TYPES, remove them and sign again"}
	default:
		return attachment{}, conflict(fmt.Sprintf("found something of type %.128q under its tag, which is for signatures: delete or rename it", found.MediaType))
	}
	a, err := parseAttachment(found, "layers")
	if err != nil {
		return attachment{}, conflict("its manifest cannot be read: " + err.Error())
	}
	if a.configAt.to == 0 {
		return attachment{}, conflict("its manifest cannot be read: it has no config")
	}
	return a, nil
}

// signatureLayer describes the payload's blob as a layer that carries a
// signature, made at a time that is recorded unless it is zero.
func signatureLayer(payload, made []byte, at time.Time) descriptor {
	layer := descriptor{
		MediaType:   simpleSigningType,
		Size:        int64(len(payload)),
		Digest:      digest.FromBytes(payload),
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(made)},
	}
	if !at.IsZero() {
		layer.Annotations[oci.AnnotationCreated] = at.UTC().Format(time.RFC3339)
	}
	return layer
}

// isSignatureBy needs no blob: the payload is known, so its digest is enough.
func isSignatureBy(layer oci.Descriptor, key *PublicKey, payload []byte, sum digest.Digest) bool {
	if layer.MediaType != simpleSigningType || layer.Digest != sum || layer.Size != int64(len(payload)) {
		return false
	}
	made, err := base64.StdEncoding.DecodeString(layer.Annotations[signatureAnnotation])
	return err == nil && key.verifies(made, payload)
}

// isSignatureOnBlob needs no blob either, as the digest of the layer is the
// hash that was signed. It is good enough for telling who writes here, but not
// for trust: who knows only the public key can make up such a pair of digest
// and signature.
func isSignatureOnBlob(layer oci.Descriptor, key *PublicKey) bool {
	if layer.MediaType != simpleSigningType || layer.Digest.Validate() != nil || layer.Digest.Algorithm() != digest.SHA256 {
		return false
	}
	sum, err := hex.DecodeString(layer.Digest.Encoded())
	if err != nil {
		return false
	}
	made, err := base64.StdEncoding.DecodeString(layer.Annotations[signatureAnnotation])
	return err == nil && key.verifiesSum(made, sum)
}
