package registrytest

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// The media types of what is pushed.
const (
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIConfig      = "application/vnd.oci.image.config.v1+json"
	OCILayer       = "application/vnd.oci.image.layer.v1.tar+gzip"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Image is a manifest or an index that has been pushed.
type Image struct {
	Digest    string
	MediaType string
	Body      []byte
	Platform  string  // of a manifest: "linux/amd64", "linux/arm/v7"
	Children  []Image // of an index, in its order
}

// Descriptor names content in a manifest or an index.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *Platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Platform is the platform of a descriptor.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// PushIndex pushes an OCI index under tag with a child for each platform.
func (r *Registry) PushIndex(t testing.TB, repository, tag string, platforms ...string) Image {
	t.Helper()
	return r.pushIndex(t, repository, tag, OCIIndex, OCIManifest, platforms)
}

// PushDockerList pushes a Docker manifest list under tag with a child for each
// platform.
func (r *Registry) PushDockerList(t testing.TB, repository, tag string, platforms ...string) Image {
	t.Helper()
	return r.pushIndex(t, repository, tag, DockerList, DockerManifest, platforms)
}

// PushManifest pushes a single OCI manifest under reference, or by its digest
// when reference is empty.
func (r *Registry) PushManifest(t testing.TB, repository, reference, platform string) Image {
	t.Helper()
	return r.pushManifest(t, repository, reference, OCIManifest, platform)
}

// PushDockerManifest pushes a single Docker manifest (schema 2).
func (r *Registry) PushDockerManifest(t testing.TB, repository, reference, platform string) Image {
	t.Helper()
	return r.pushManifest(t, repository, reference, DockerManifest, platform)
}

func (r *Registry) pushIndex(t testing.TB, repository, tag, mediaType, childType string, platforms []string) Image {
	t.Helper()
	index := Image{MediaType: mediaType}
	descriptors := []Descriptor{}
	for _, platform := range platforms {
		child := r.pushManifest(t, repository, "", childType, platform)
		index.Children = append(index.Children, child)
		descriptors = append(descriptors, Descriptor{
			MediaType: childType, Digest: child.Digest, Size: len(child.Body), Platform: parsePlatform(platform),
		})
	}
	index.Body = marshal(t, map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": descriptors})
	index.Digest = r.Put(t, repository, tag, mediaType, index.Body)
	return index
}

// pushManifest makes each platform of each repository an image of its own.
func (r *Registry) pushManifest(t testing.TB, repository, reference, mediaType, platform string) Image {
	t.Helper()
	configType, layerType := OCIConfig, OCILayer
	if mediaType == DockerManifest {
		configType, layerType = DockerConfig, DockerLayer
	}
	layer := []byte("layer of " + repository + " for " + platform)
	p := parsePlatform(platform)
	config := marshal(t, map[string]any{
		"architecture": p.Architecture, "os": p.OS, "variant": p.Variant,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest.FromBytes(layer).String()}},
	})
	body := marshal(t, map[string]any{
		"schemaVersion": 2,
		"mediaType":     mediaType,
		"config":        Descriptor{MediaType: configType, Digest: r.PutBlob(t, repository, config), Size: len(config)},
		"layers":        []Descriptor{{MediaType: layerType, Digest: r.PutBlob(t, repository, layer), Size: len(layer)}},
	})
	return Image{
		Digest:    r.Put(t, repository, reference, mediaType, body),
		MediaType: mediaType,
		Body:      body,
		Platform:  platform,
	}
}

// Put stores a manifest of any kind and returns its digest, under which alone
// it is stored when reference is empty. It is not counted as a request.
func (r *Registry) Put(t testing.TB, repository, reference, mediaType string, body []byte) string {
	t.Helper()
	d := digest.FromBytes(body).String()
	if reference == "" {
		reference = d
	}
	w := r.inside(t.Context(), http.MethodPut, "/v2/"+repository+"/manifests/"+reference, mediaType, body)
	if w.Code != http.StatusCreated {
		t.Fatalf("put manifest %s of %s: %d %s", reference, repository, w.Code, w.Body)
	}
	return d
}

// PutBlob stores a blob and returns its digest. It is not counted as a request.
func (r *Registry) PutBlob(t testing.TB, repository string, body []byte) string {
	t.Helper()
	d := digest.FromBytes(body).String()
	w := r.inside(t.Context(), http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d, "", body)
	if w.Code != http.StatusCreated {
		t.Fatalf("put blob %s of %s: %d %s", d, repository, w.Code, w.Body)
	}
	r.hold(repository, d)
	return d
}

// Get returns a stored manifest, or ok false when there is none. It is not
// counted as a request.
func (r *Registry) Get(repository, reference string) (mediaType string, body []byte, ok bool) {
	return r.manifest(context.Background(), repository, reference)
}

// Blob returns a blob of the repository, or ok false when it has none such. It
// is not counted as a request.
func (r *Registry) Blob(repository, d string) (body []byte, ok bool) {
	return r.blob(context.Background(), repository, d)
}

func (r *Registry) manifest(ctx context.Context, repository, reference string) (mediaType string, body []byte, ok bool) {
	w := r.inside(ctx, http.MethodGet, "/v2/"+repository+"/manifests/"+reference, "", nil)
	return w.Header().Get("Content-Type"), w.Body.Bytes(), w.Code == http.StatusOK
}

func (r *Registry) blob(ctx context.Context, repository, d string) (body []byte, ok bool) {
	if !r.holds(repository, d) {
		return nil, false
	}
	w := r.inside(ctx, http.MethodGet, "/v2/"+repository+"/blobs/"+d, "", nil)
	return w.Body.Bytes(), w.Code == http.StatusOK
}

func parsePlatform(platform string) *Platform {
	parts := append(strings.SplitN(platform, "/", 3), "", "")
	return &Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

func marshal(t testing.TB, value any) []byte {
	t.Helper()
	body, err := json.Marshal(value)
	must(t, err)
	return body
}
