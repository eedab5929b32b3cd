package main

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// image is one image of the demo: what it is called, what it is, and the
// digests that must carry a signature in the end.
type image struct {
	reference string
	kind      string
	signed    []v1.Hash
}

var demoPlatforms = []string{"linux/amd64", "linux/arm64"}

func pushImages(host string) ([]image, error) {
	var images []image
	push := func(path, kind string, make func(name.Reference) ([]v1.Hash, error)) error {
		ref, err := name.ParseReference(host+"/"+path, name.Insecure)
		if err != nil {
			return err
		}
		signed, err := make(ref)
		if err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
		images = append(images, image{reference: ref.String(), kind: kind, signed: signed})
		return nil
	}
	for _, path := range []string{"mirror/nginx:1.29", "mirror/redis:8", "mirror/tools/busybox:1.37"} {
		if err := push(path, "OCI index, amd64 and arm64", pushIndex(types.OCIImageIndex)); err != nil {
			return nil, err
		}
	}
	for _, path := range []string{"mirror/mysql:9", "mirror/rancher/agent:v2"} {
		if err := push(path, "Docker manifest list, amd64 and arm64", pushIndex(types.DockerManifestList)); err != nil {
			return nil, err
		}
	}
	return images, push("mirror/hello:1", "single manifest, amd64", func(ref name.Reference) ([]v1.Hash, error) {
		img, err := platformImage("linux/amd64")
		if err != nil {
			return nil, err
		}
		digest, err := img.Digest()
		if err != nil {
			return nil, err
		}
		return []v1.Hash{digest}, remote.Write(ref, img)
	})
}

func pushIndex(mediaType types.MediaType) func(name.Reference) ([]v1.Hash, error) {
	return func(ref name.Reference) ([]v1.Hash, error) {
		index := mutate.IndexMediaType(empty.Index, mediaType)
		var signed []v1.Hash
		for _, p := range demoPlatforms {
			img, err := platformImage(p)
			if err != nil {
				return nil, err
			}
			platform, err := v1.ParsePlatform(p)
			if err != nil {
				return nil, err
			}
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
			digest, err := img.Digest()
			if err != nil {
				return nil, err
			}
			signed = append(signed, digest)
		}
		digest, err := index.Digest()
		if err != nil {
			return nil, err
		}
		return append(signed, digest), remote.WriteIndex(ref, index)
	}
}

func platformImage(platform string) (v1.Image, error) {
	img, err := random.Image(512, 1)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture, _ = strings.Cut(platform, "/")
	return mutate.ConfigFile(img, config)
}

func listOf(images []image) string {
	var list strings.Builder
	list.WriteString("# images of the demo\n")
	for _, image := range images {
		list.WriteString(image.reference + "\n")
	}
	return list.String()
}

// verify checks that each digest of an image carries a signature by the key
// over a payload that names that digest, and returns how many there are.
func verify(img image, publicKey string) (int, error) {
	pem, err := os.ReadFile(publicKey) //nolint:gosec // G304: the demo's own key
	if err != nil {
		return 0, err
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return 0, err
	}
	verifier, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		return 0, err
	}
	ref, err := name.ParseReference(img.reference, name.Insecure)
	if err != nil {
		return 0, err
	}
	for _, digest := range img.signed {
		tag := ref.Context().Tag("sha256-" + digest.Hex + ".sig")
		if err := verifyAttachment(tag, digest, verifier); err != nil {
			return 0, fmt.Errorf("%s: %w", tag, err)
		}
	}
	return len(img.signed), nil
}

func verifyAttachment(tag name.Tag, digest v1.Hash, verifier signature.Verifier) error {
	attachment, err := remote.Image(tag)
	if err != nil {
		return err
	}
	manifest, err := attachment.Manifest()
	if err != nil {
		return err
	}
	for _, descriptor := range manifest.Layers {
		layer, err := attachment.LayerByDigest(descriptor.Digest)
		if err != nil {
			return err
		}
		payload, err := readPayload(layer)
		if err != nil {
			return err
		}
		sig, err := base64.StdEncoding.DecodeString(descriptor.Annotations["dev.cosignproject.cosign/signature"])
		if err != nil {
			return err
		}
		if verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(payload)) == nil {
			return checkPayload(payload, digest)
		}
	}
	return fmt.Errorf("no signature by the key")
}

func readPayload(layer v1.Layer) (payload []byte, err error) {
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // only read
	return io.ReadAll(r)
}

func checkPayload(payload []byte, digest v1.Hash) error {
	var p struct {
		Critical struct {
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return err
	}
	if p.Critical.Image.Digest != digest.String() {
		return fmt.Errorf("the payload is about %s", p.Critical.Image.Digest)
	}
	return nil
}
