package sign

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/signfleet/signfleet/internal/registry"
)

const (
	simpleSigningType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"

	// constantConfig is the config of every attachment we begin. Nobody reads
	// it to verify; the fields are those without which Quay refuses a manifest.
	// One blob for all means that it is uploaded once per repository.
	constantConfig = `{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}`

	// cosign verifies no attachment with more layers than this.
	maxLayers = 1000
	// containers/image reads no longer manifest than this.
	maxAttachment = 4 << 20
)

// descriptor is an entry of a manifest, in the order cosign writes it.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Size        int               `json:"size"`
	Digest      digest.Digest     `json:"digest"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// signatureLayer describes the payload's blob as a layer that carries a signature.
func signatureLayer(payload, made []byte) descriptor {
	return descriptor{
		MediaType:   simpleSigningType,
		Size:        len(payload),
		Digest:      digest.FromBytes(payload),
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(made)},
	}
}

// attachment is the manifest that carries the signatures of an image as the
// registry has it; its zero value is the absent one.
type attachment struct {
	body   []byte
	digest digest.Digest
	config digest.Digest
	layers []oci.Descriptor
	// Where the list of layers stands in the body, brackets included.
	from, to int
}

// readAttachment reads what was found under an attachment's tag. It refuses
// what it could not add to without loss.
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
		return attachment{}, conflict(fmt.Sprintf("found something of type %.128q under its tag", found.MediaType))
	}
	a := attachment{body: found.Body, digest: found.Digest}
	var config oci.Descriptor
	if err := a.scan(&config); err != nil {
		return attachment{}, conflict("its manifest cannot be read: " + err.Error())
	}
	a.config = config.Digest
	return a, nil
}

// scan finds the config and the layers, and where the layers stand. It works
// on the text, since decoding and encoding again would drop the fields that
// this program does not know.
func (a *attachment) scan(config *oci.Descriptor) error {
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		if seen[name] {
			return fmt.Errorf("%.128q is there twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		switch name {
		case "config":
			err = json.Unmarshal(value, config)
		case "layers":
			a.to = int(decoder.InputOffset())
			a.from = a.to - len(value)
			err = json.Unmarshal(value, &a.layers)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := decoder.Token(); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its end")
	}
	if !seen["config"] || !seen["layers"] {
		return errors.New("not an image manifest: no config or no layers")
	}
	return nil
}

// absent tells that there is no attachment yet.
func (a attachment) absent() bool { return a.body == nil }

// carries tells whether a signature by the key over the payload is there.
func (a attachment) carries(key *Key, payload []byte) bool {
	sum := digest.FromBytes(payload)
	return slices.ContainsFunc(a.layers, func(layer oci.Descriptor) bool {
		return isSignatureBy(layer, key, payload, sum)
	})
}

// carriesOthers tells whether anything is there that is not a signature by one
// of the keys: somebody else writes here. Our signatures for other tags of the
// image are told by their digest; with Ed25519, which does not sign a digest,
// they count as another's.
func (a attachment) carriesOthers(keys []*Key, payload []byte) bool {
	sum := digest.FromBytes(payload)
	return slices.ContainsFunc(a.layers, func(layer oci.Descriptor) bool {
		return !slices.ContainsFunc(keys, func(key *Key) bool {
			return isSignatureBy(layer, key, payload, sum) || isSignatureOnBlob(layer, key)
		})
	})
}

// isSignatureBy needs no blob: the payload is known, so its digest is enough.
func isSignatureBy(layer oci.Descriptor, key *Key, payload []byte, sum digest.Digest) bool {
	if layer.MediaType != simpleSigningType || layer.Digest != sum {
		return false
	}
	made, err := base64.StdEncoding.DecodeString(layer.Annotations[signatureAnnotation])
	return err == nil && key.verifies(made, payload)
}

// isSignatureOnBlob needs no blob either, as the digest of the layer is the
// hash that was signed. It is good enough for telling who writes here, but not
// for trust: who knows only the public key can make up such a pair of digest
// and signature.
func isSignatureOnBlob(layer oci.Descriptor, key *Key) bool {
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

// names tells whether a layer of the attachment is the blob.
func (a attachment) names(blob digest.Digest) bool {
	return slices.ContainsFunc(a.layers, func(layer oci.Descriptor) bool { return layer.Digest == blob })
}

// with is the manifest with further layers: every other byte stays as it is.
func (a attachment) with(name string, added []descriptor) ([]byte, error) {
	if a.absent() {
		return newAttachment(added)
	}
	if len(a.layers)+len(added) > maxLayers {
		return nil, &ConflictError{Attachment: name, Reason: fmt.Sprintf("it has %d layers, verifiers read no more than %d", len(a.layers), maxLayers)}
	}
	list, err := json.Marshal(added)
	if err != nil {
		return nil, err
	}
	if len(a.layers) > 0 {
		// Both lists are kept but for the brackets where they meet.
		before := bytes.TrimRight(a.body[a.from:a.to-1], " \t\r\n")
		list = append(append(bytes.Clone(before), ','), list[1:]...)
	}
	merged := make([]byte, 0, len(a.body)+len(list))
	merged = append(merged, a.body[:a.from]...)
	merged = append(merged, list...)
	merged = append(merged, a.body[a.to:]...)
	if len(merged) > maxAttachment {
		return nil, &ConflictError{Attachment: name, Reason: fmt.Sprintf("its manifest would be longer than the %d bytes that verifiers read", maxAttachment)}
	}
	return merged, nil
}

// newAttachment is the manifest of an attachment that has only our layers.
func newAttachment(layers []descriptor) ([]byte, error) {
	return json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{
		SchemaVersion: 2,
		MediaType:     oci.MediaTypeImageManifest,
		Config: descriptor{
			MediaType: oci.MediaTypeImageConfig,
			Size:      len(constantConfig),
			Digest:    digest.FromString(constantConfig),
		},
		Layers: layers,
	})
}
