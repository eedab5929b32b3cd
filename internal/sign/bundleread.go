package sign

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// bundleVersion are the media types of bundles that cosign reads: of version 0.3
// and whatever else the specification makes of that before 0.4.
var bundleVersion = regexp.MustCompile(`^application/vnd\.dev\.sigstore\.bundle(\+json;version=0\.3|\.v0\.3(\.(0|[1-9]\d*))?\+json)$`)

// Why a bundle is no signature by a key.
var (
	errNotSignature = errors.New("it is not a signature of the manifest")
	errOtherKey     = errors.New("it is not signed by the key")
)

// foundBundle is a bundle as it was read, by the rules of cosign. Nothing in it
// is proven until verifiedBy says so.
type foundBundle struct {
	// counts tells that cosign takes it for a bundle, whatever is in it, and so
	// looks at no signature under a tag.
	counts bool

	hint      string // of the key, in base64; may be empty or wrong
	keyID     bool   // its signature has one, which cosign refuses
	signed    []byte // what the signature is of, whatever it says
	signature []byte

	predicateType string
	subjects      []foundSubject // of a signature, only
}

// foundSubject is what a statement is about, and what it claims of that.
type foundSubject struct {
	digests map[string]string // by algorithm
	claims  map[string]json.RawMessage
}

// parseBundle reads a bundle of a signature by a key, or of an attestation. What
// has a certificate in place of a key is read too, and verified by no key. With an
// error the bundle still has what was read until then.
func parseBundle(body []byte) (foundBundle, error) {
	var read protobundle.Bundle
	if err := protojson.Unmarshal(body, &read); err != nil {
		return foundBundle{}, fmt.Errorf("the bundle is not the JSON it should be: %w", err)
	}
	material := read.GetVerificationMaterial()
	switch {
	case !bundleVersion.MatchString(read.GetMediaType()):
		return foundBundle{}, fmt.Errorf("a bundle of the type %.128q is not read", read.GetMediaType())
	case read.GetContent() == nil:
		return foundBundle{}, errors.New("the bundle has no signature")
	case material.GetContent() == nil:
		return foundBundle{}, errors.New("the bundle does not say what verifies it")
	case material.GetX509CertificateChain() != nil:
		return foundBundle{}, errors.New("the bundle has a chain of certificates, and no version 0.3 has")
	}
	found := foundBundle{counts: true, hint: material.GetPublicKey().GetHint()}
	envelope := read.GetDsseEnvelope()
	switch {
	case envelope == nil || len(envelope.GetSignatures()) == 0:
		return found, errors.New("the bundle has no signed statement")
	case len(envelope.GetSignatures()) > 1:
		return found, fmt.Errorf("the bundle has %d signatures, and cosign accepts one", len(envelope.GetSignatures()))
	case envelope.GetPayloadType() != statementMedia:
		return found, fmt.Errorf("the bundle holds a %.128q, not a statement", envelope.GetPayloadType())
	}
	one := envelope.GetSignatures()[0]
	found.keyID, found.signature = one.GetKeyid() != "", one.GetSig()
	return found, found.readStatement(envelope.GetPayload())
}

// readStatement reads what is signed. Of an attestation no more than its kind,
// since it can be large.
func (b *foundBundle) readStatement(payload []byte) error {
	var peek struct {
		PredicateType string `json:"predicateType"`
	}
	if err := json.Unmarshal(payload, &peek); err != nil {
		return fmt.Errorf("the statement of the bundle is not the JSON it should be: %w", err)
	}
	b.predicateType, b.signed = peek.PredicateType, dsse.PAE(statementMedia, payload)
	if b.predicateType != signPredicateType {
		return nil
	}
	var said intoto.Statement
	if err := protojson.Unmarshal(payload, &said); err != nil {
		return fmt.Errorf("the statement of the bundle is not the JSON it should be: %w", err)
	}
	for _, about := range said.GetSubject() {
		subject := foundSubject{digests: about.GetDigest(), claims: map[string]json.RawMessage{}}
		for key, value := range about.GetAnnotations().GetFields() {
			text, err := protojson.Marshal(value)
			if err != nil {
				return fmt.Errorf("the annotation %.128q of the bundle cannot be read: %w", key, err)
			}
			subject.claims[key] = text
		}
		b.subjects = append(b.subjects, subject)
	}
	return nil
}

// about is what the statement says of a manifest.
func (b foundBundle) about(manifest digest.Digest) (foundSubject, bool) {
	i := slices.IndexFunc(b.subjects, func(s foundSubject) bool {
		return s.digests[manifest.Algorithm().String()] == manifest.Encoded()
	})
	if i < 0 {
		return foundSubject{}, false
	}
	return b.subjects[i], true
}

// verifiedBy tells whether the key has signed, with this bundle, that the
// manifest is signed. cosign takes a statement of any other kind for it too;
// who attests something about an image has not said that it is good.
func (b foundBundle) verifiedBy(key *PublicKey, manifest digest.Digest) error {
	if _, about := b.about(manifest); b.predicateType != signPredicateType || !about {
		return errNotSignature
	}
	if !key.verifies(b.signature, b.signed) {
		return errOtherKey
	}
	return nil
}
