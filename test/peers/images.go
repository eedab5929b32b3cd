package peers

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is what was pushed.
type Image struct {
	Reference string // host/repository:tag
	Digest    string
	Children  []Child // of an index: its platforms, without attestations
}

// Child is one platform of an index.
type Child struct {
	Platform string // os/arch or os/arch/variant
	Digest   string
}

// ByDigest returns the image's reference by digest.
func (i Image) ByDigest() string { return i.at(i.Digest) }

// Child returns the reference, by digest, of the child with a platform; it
// panics when there is none, which is a mistake in the test.
func (i Image) Child(platform string) string {
	for _, c := range i.Children {
		if c.Platform == platform {
			return i.at(c.Digest)
		}
	}
	panic(fmt.Sprintf("%s has no platform %s", i.Reference, platform))
}

// Signature returns the reference of the tag that signatures of a digest have.
func (i Image) Signature(digest string) string {
	return i.repository() + ":" + strings.Replace(digest, ":", "-", 1) + ".sig"
}

// Referrers returns the reference of the tag under which the referrers of a
// digest are listed where the registry does not list them.
func (i Image) Referrers(digest string) string {
	return strings.TrimSuffix(i.Signature(digest), ".sig")
}

func (i Image) at(digest string) string { return i.repository() + "@" + digest }

func (i Image) repository() string {
	repository, _, _ := cutLast(i.Reference, ":")
	return repository
}

// Pusher pushes images to one registry. What it pushes is a function of the
// repository and tag alone, so that digests are the same in every run.
type Pusher struct {
	host    string
	options []remote.Option
}

// NewPusher returns a pusher for a registry, or for a proxy in front of one.
func NewPusher(host string, access Access) (*Pusher, error) {
	t, err := access.transport()
	if err != nil {
		return nil, err
	}
	p := &Pusher{host: host, options: []remote.Option{remote.WithTransport(t)}}
	if access.AuthFile != "" {
		p.options = append(p.options, remote.WithAuth(&authn.Basic{Username: User, Password: Password}))
	}
	return p, nil
}

// Index pushes an OCI index of platforms with an attestation beside each, as
// buildkit makes them. path is "repository:tag".
func (p *Pusher) Index(ctx context.Context, path string, platforms ...string) (Image, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var children []Child
	for _, platform := range platforms {
		image, err := makeImage(path, platform, types.OCIManifestSchema1)
		if err != nil {
			return Image{}, err
		}
		digest, err := image.Digest()
		if err != nil {
			return Image{}, err
		}
		attestation, err := attest(image)
		if err != nil {
			return Image{}, err
		}
		index = mutate.AppendManifests(index,
			mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: parsePlatform(platform)}},
			mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
				Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
				Annotations: map[string]string{
					"vnd.docker.reference.type":   "attestation-manifest",
					"vnd.docker.reference.digest": digest.String(),
				},
			}})
		children = append(children, Child{Platform: platform, Digest: digest.String()})
	}
	return p.push(ctx, path, index, children)
}

// List pushes a Docker manifest list of platforms.
func (p *Pusher) List(ctx context.Context, path string, platforms ...string) (Image, error) {
	list := mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	var children []Child
	for _, platform := range platforms {
		image, err := makeImage(path, platform, types.DockerManifestSchema2)
		if err != nil {
			return Image{}, err
		}
		digest, err := image.Digest()
		if err != nil {
			return Image{}, err
		}
		list = mutate.AppendManifests(list, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: parsePlatform(platform)},
		})
		children = append(children, Child{Platform: platform, Digest: digest.String()})
	}
	return p.push(ctx, path, list, children)
}

// Single pushes an OCI manifest whose config names its platform.
func (p *Pusher) Single(ctx context.Context, path, platform string) (Image, error) {
	image, err := makeImage(path, platform, types.OCIManifestSchema1)
	if err != nil {
		return Image{}, err
	}
	return p.push(ctx, path, image, nil)
}

// DockerSingle pushes a Docker schema 2 manifest whose config names its platform.
func (p *Pusher) DockerSingle(ctx context.Context, path, platform string) (Image, error) {
	image, err := makeImage(path, platform, types.DockerManifestSchema2)
	if err != nil {
		return Image{}, err
	}
	return p.push(ctx, path, image, nil)
}

// Chart pushes an artifact as helm does: a manifest whose config is not an
// image's.
func (p *Pusher) Chart(ctx context.Context, path string) (Image, error) {
	chart := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	chart = mutate.ConfigMediaType(chart, "application/vnd.cncf.helm.config.v1+json")
	chart, err := mutate.Append(chart, mutate.Addendum{
		Layer:     static.NewLayer([]byte("chart "+path), "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
		MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
	})
	if err != nil {
		return Image{}, err
	}
	return p.push(ctx, path, chart, nil)
}

// Copy gives what a reference names another tag in the same registry.
func (p *Pusher) Copy(ctx context.Context, from, path string) error {
	source, err := p.reference(strings.TrimPrefix(from, p.host+"/"))
	if err != nil {
		return err
	}
	descriptor, err := remote.Get(source, p.with(ctx)...)
	if err != nil {
		return err
	}
	target, err := name.NewTag(p.host+"/"+path, name.StrictValidation)
	if err != nil {
		return err
	}
	return remote.Put(target, descriptor, p.with(ctx)...)
}

// Manifest returns a manifest's bytes as the registry has them.
func (p *Pusher) Manifest(ctx context.Context, reference string) ([]byte, error) {
	ref, err := p.reference(strings.TrimPrefix(reference, p.host+"/"))
	if err != nil {
		return nil, err
	}
	descriptor, err := remote.Get(ref, p.with(ctx)...)
	if err != nil {
		return nil, err
	}
	return descriptor.Manifest, nil
}

// Signatures returns how many signatures the .sig manifest of a digest of the
// image has; 0 when there is none.
func (p *Pusher) Signatures(ctx context.Context, i Image, digest string) (int, error) {
	body, err := p.Manifest(ctx, i.Signature(digest))
	if isNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(body, &manifest); err != nil {
		return 0, err
	}
	return len(manifest.Layers), nil
}

// Signature is one signature of a .sig manifest, with what it is over.
type Signature struct {
	Payload   []byte
	Signature []byte
}

// ReadSignatures returns the signatures that the .sig manifest of a digest of
// the image holds; none when there is no such manifest.
func (p *Pusher) ReadSignatures(ctx context.Context, i Image, digest string) ([]Signature, error) {
	body, err := p.Manifest(ctx, i.Signature(digest))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(body, &manifest); err != nil {
		return nil, err
	}
	var signatures []Signature
	for _, layer := range manifest.Layers {
		signature, err := base64.StdEncoding.DecodeString(layer.Annotations["dev.cosignproject.cosign/signature"])
		if err != nil {
			return nil, fmt.Errorf("signature of %s: %w", digest, err)
		}
		payload, err := p.blob(ctx, i.at(layer.Digest.String()))
		if err != nil {
			return nil, fmt.Errorf("payload of a signature of %s: %w", digest, err)
		}
		signatures = append(signatures, Signature{Payload: payload, Signature: signature})
	}
	return signatures, nil
}

// RemoveSignatures deletes the .sig manifest of a digest of the image.
func (p *Pusher) RemoveSignatures(ctx context.Context, i Image, digest string) error {
	ref, err := p.reference(strings.TrimPrefix(i.Signature(digest), p.host+"/"))
	if err != nil {
		return err
	}
	descriptor, err := remote.Head(ref, p.with(ctx)...)
	if err != nil {
		return err
	}
	return remote.Delete(ref.Context().Digest(descriptor.Digest.String()), p.with(ctx)...)
}

// blob returns the content that a reference by digest names.
func (p *Pusher) blob(ctx context.Context, reference string) ([]byte, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, err
	}
	layer, err := remote.Layer(ref, p.with(ctx)...)
	if err != nil {
		return nil, err
	}
	content, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer content.Close() //nolint:errcheck // only read
	return io.ReadAll(content)
}

func (p *Pusher) push(ctx context.Context, path string, what remote.Taggable, children []Child) (Image, error) {
	ref, err := p.reference(path)
	if err != nil {
		return Image{}, err
	}
	switch what := what.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, what, p.with(ctx)...)
	case v1.Image:
		err = remote.Write(ref, what, p.with(ctx)...)
	}
	if err != nil {
		return Image{}, fmt.Errorf("pushing %s: %w", path, err)
	}
	digest, err := partial.Descriptor(what.(partial.Describable))
	if err != nil {
		return Image{}, err
	}
	return Image{Reference: p.host + "/" + path, Digest: digest.Digest.String(), Children: children}, nil
}

func (p *Pusher) reference(path string) (name.Reference, error) {
	return name.ParseReference(p.host+"/"+path, name.StrictValidation)
}

func (p *Pusher) with(ctx context.Context) []remote.Option {
	return append([]remote.Option{remote.WithContext(ctx)}, p.options...)
}

// makeImage makes a small image whose one layer holds its own name.
func makeImage(path, platform string, kind types.MediaType) (v1.Image, error) {
	config, layer := types.OCIConfigJSON, types.OCIUncompressedLayer
	if kind == types.DockerManifestSchema2 {
		config, layer = types.DockerConfigJSON, types.DockerUncompressedLayer
	}
	content, err := archive("image", path+" "+platform)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, kind), config)
	image, err = mutate.AppendLayers(image, static.NewLayer(content, layer))
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	p := parsePlatform(platform)
	file.OS, file.Architecture, file.Variant = p.OS, p.Architecture, p.Variant
	return mutate.ConfigFile(image, file)
}

// attest makes a manifest like the ones that buildkit puts beside an image.
func attest(image v1.Image) (v1.Image, error) {
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	statement := `{"_type":"https://in-toto.io/Statement/v0.1","subject":[{"name":"` + digest.String() + `"}]}`
	attestation := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	return mutate.AppendLayers(attestation, static.NewLayer([]byte(statement), "application/vnd.in-toto+json"))
}

func archive(file, content string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	if _, err := w.Write([]byte(content)); err != nil {
		return nil, err
	}
	err := w.Close()
	return b.Bytes(), err
}

func parsePlatform(s string) *v1.Platform {
	parts := append(strings.SplitN(s, "/", 3), "", "")
	return &v1.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

func isNotFound(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}
