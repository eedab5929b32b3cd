package sign

import (
	"context"
	"encoding/json"
	"fmt"
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
