package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

const (
	// bundleType is the media type of a bundle, of the layer that is one, and the
	// artifact type of the manifest around it.
	bundleType        = "application/vnd.dev.sigstore.bundle.v0.3+json"
	bundleTypePrefix  = "application/vnd.dev.sigstore.bundle"
	bundleTypeOf03    = bundleTypePrefix + ".v0.3"
	statementType     = "https://in-toto.io/Statement/v1"
	statementMedia    = "application/vnd.in-toto+json"
	signPredicateType = "https://sigstore.dev/cosign/sign/v1"

	contentAnnotation       = "dev.sigstore.bundle.content"
	predicateTypeAnnotation = "dev.sigstore.bundle.predicateType"

	// emptyConfig is the config of manifests that have none (OCI image spec 1.1,
	// "guidance for an empty descriptor").
	emptyConfig = "{}"
)

// unrecordedTime stands where a time has to be and none was asked for, so that
// the same signature is always the same bytes.
var unrecordedTime = time.Unix(0, 0).UTC()

// bundle is a Sigstore bundle of version 0.3 as far as signatures by keys need
// it: a signed statement and a hint at the key, in the order cosign writes them.
type bundle struct {
	MediaType            string               `json:"mediaType"`
	VerificationMaterial verificationMaterial `json:"verificationMaterial"`
	Envelope             *envelope            `json:"dsseEnvelope,omitempty"`
}

type verificationMaterial struct {
	PublicKey *publicKeyHint `json:"publicKey,omitempty"`
}

type publicKeyHint struct {
	Hint string `json:"hint,omitempty"`
}

// envelope is a DSSE envelope. Its signatures have no keyid: cosign refuses any
// that is not its own.
type envelope struct {
	Payload     []byte              `json:"payload"`
	PayloadType string              `json:"payloadType"`
	Signatures  []envelopeSignature `json:"signatures"`
}

type envelopeSignature struct {
	Sig []byte `json:"sig"`
}

// statement is an in-toto statement about one manifest. It does not say what
// the manifest is called: nor does cosign's.
type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Digest      map[string]string `json:"digest"`
	Annotations map[string]string `json:"annotations"`
}

// newBundle signs the statement that the manifest with the digest is signed,
// with the claims.
func newBundle(ctx context.Context, key *Key, manifest digest.Digest, claims map[string]string) ([]byte, error) {
	if claims == nil {
		claims = map[string]string{}
	}
	payload, err := json.Marshal(statement{
		Type:          statementType,
		Subject:       []subject{{Digest: map[string]string{manifest.Algorithm().String(): manifest.Encoded()}, Annotations: claims}},
		PredicateType: signPredicateType,
		Predicate:     json.RawMessage(`{}`),
	})
	if err != nil {
		return nil, fmt.Errorf("statement about %s: %w", manifest, err)
	}
	made, err := key.sign(ctx, dsse.PAE(statementMedia, payload))
	if err != nil {
		return nil, err
	}
	return json.Marshal(bundle{
		MediaType:            bundleType,
		VerificationMaterial: verificationMaterial{PublicKey: &publicKeyHint{Hint: key.hint()}},
		Envelope:             &envelope{Payload: payload, PayloadType: statementMedia, Signatures: []envelopeSignature{{Sig: made}}},
	})
}

// referrer is the manifest that attaches a bundle to the manifest of an image.
type referrer struct {
	bundle []byte
	body   []byte
	entry  descriptor // how an index of referrers lists it
}

// newReferrer makes the manifest in the full form that cosign writes; some
// readers look at its artifact type and annotations, and not at the bundle.
func newReferrer(of target, bundle []byte, created time.Time) (referrer, error) {
	annotations := map[string]string{
		contentAnnotation:       "dsse-envelope",
		predicateTypeAnnotation: signPredicateType,
		oci.AnnotationCreated:   created.UTC().Format(time.RFC3339),
	}
	body, err := json.Marshal(struct {
		specs.Versioned
		MediaType    string            `json:"mediaType"`
		ArtifactType string            `json:"artifactType"`
		Config       descriptor        `json:"config"`
		Layers       []descriptor      `json:"layers"`
		Subject      descriptor        `json:"subject"`
		Annotations  map[string]string `json:"annotations"`
	}{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    oci.MediaTypeImageManifest,
		ArtifactType: bundleType,
		Config:       descriptor{MediaType: oci.MediaTypeEmptyJSON, Digest: digest.FromString(emptyConfig), Size: int64(len(emptyConfig))},
		Layers:       []descriptor{{MediaType: bundleType, Digest: digest.FromBytes(bundle), Size: int64(len(bundle))}},
		Subject:      descriptor{MediaType: of.mediaType, Digest: of.digest, Size: of.size},
		Annotations:  annotations,
	})
	if err != nil {
		return referrer{}, fmt.Errorf("referrer to %s: %w", of.digest, err)
	}
	return referrer{bundle: bundle, body: body, entry: descriptor{
		MediaType:    oci.MediaTypeImageManifest,
		Size:         int64(len(body)),
		Digest:       digest.FromBytes(body),
		Annotations:  annotations,
		ArtifactType: bundleType,
	}}, nil
}

// Why a bundle is no signature by a key.
var (
	errNotSignature = errors.New("it is not a signature of the manifest")
	errOtherKey     = errors.New("it is not signed by the key")
)

// foundBundle is a bundle as it was read. Nothing in it is proven until
// verifiedBy says so.
type foundBundle struct {
	hint      string // of the key, in base64; may be empty or wrong
	envelope  *envelope
	statement statement
}

// parseBundle reads a bundle of a signature by a key, or of an attestation. What
// has a certificate in place of a key is read too, and verified by no key.
func parseBundle(body []byte) (foundBundle, error) {
	var read bundle
	if err := json.Unmarshal(body, &read); err != nil {
		return foundBundle{}, fmt.Errorf("the bundle is not the JSON it should be: %w", err)
	}
	if !strings.HasPrefix(read.MediaType, bundleTypeOf03) {
		return foundBundle{}, fmt.Errorf("a bundle of the type %.128q is not read", read.MediaType)
	}
	if read.Envelope == nil || len(read.Envelope.Signatures) == 0 {
		return foundBundle{}, errors.New("the bundle has no signed statement")
	}
	found := foundBundle{envelope: read.Envelope}
	if read.VerificationMaterial.PublicKey != nil {
		found.hint = read.VerificationMaterial.PublicKey.Hint
	}
	if read.Envelope.PayloadType != statementMedia {
		return found, fmt.Errorf("the bundle holds a %.128q, not a statement", read.Envelope.PayloadType)
	}
	if err := json.Unmarshal(read.Envelope.Payload, &found.statement); err != nil {
		return found, fmt.Errorf("the statement of the bundle is not the JSON it should be: %w", err)
	}
	return found, nil
}

// verifiedBy tells whether the key has signed, with this bundle, that the
// manifest is signed. cosign takes a statement of any other kind for it too;
// who attests something about an image has not said that it is good.
func (b foundBundle) verifiedBy(key *PublicKey, manifest digest.Digest) error {
	about := slices.ContainsFunc(b.statement.Subject, func(s subject) bool {
		return s.Digest[manifest.Algorithm().String()] == manifest.Encoded()
	})
	if b.statement.PredicateType != signPredicateType || !about {
		return errNotSignature
	}
	signed := dsse.PAE(b.envelope.PayloadType, b.envelope.Payload)
	if !slices.ContainsFunc(b.envelope.Signatures, func(s envelopeSignature) bool { return key.verifies(s.Sig, signed) }) {
		return errOtherKey
	}
	return nil
}

// claims tells whether the statement makes all of the claims.
func (b foundBundle) claims(wanted map[string]string) bool {
	return slices.ContainsFunc(b.statement.Subject, func(s subject) bool {
		for key, value := range wanted {
			if made, ok := s.Annotations[key]; !ok || made != value {
				return false
			}
		}
		return true
	})
}
