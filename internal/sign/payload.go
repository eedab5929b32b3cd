package sign

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// payloadType is the only critical.type that containers/image accepts.
const payloadType = "cosign container image signature"

// simpleSigning is the payload of a signature. Its fields are in the order
// cosign writes them in; with nothing in it that changes from run to run (no
// timestamp), its digest alone tells whether a signature is over it.
type simpleSigning struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	// Optional must be there, if only as null, or containers/image refuses the
	// payload.
	Optional any `json:"optional"`
}

// newPayload is the statement that the manifest with the digest is the image
// that goes by the identity, with the claims (which may be none): exactly the
// bytes that are signed and uploaded.
func newPayload(identity string, manifest digest.Digest, claims map[string]string) ([]byte, error) {
	var statement simpleSigning
	if len(claims) > 0 { // else it is null, as cosign's
		statement.Optional = claims
	}
	statement.Critical.Identity.DockerReference = identity
	statement.Critical.Image.DockerManifestDigest = manifest
	statement.Critical.Type = payloadType
	body, err := json.Marshal(statement)
	if err != nil {
		return nil, fmt.Errorf("payload of %s: %w", manifest, err)
	}
	return body, nil
}
