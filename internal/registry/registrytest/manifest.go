package registrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/opencontainers/go-digest"
)

// WithLooseManifests accepts manifests whose blobs are missing.
func WithLooseManifests() Option { return func(r *Registry) { r.strict = false } }

// WithFullConfigs refuses, with 400 MANIFEST_INVALID, a manifest under a tag
// that ends in ".sig" when its config blob has no architecture or os, or not as
// many diff_ids as the manifest has layers.
func WithFullConfigs() Option { return func(r *Registry) { r.fullConfigs = true } }

// WithHarborErrors answers for a manifest that is not there as Harbor does: 404
// with a code that the specification does not know.
func WithHarborErrors() Option { return func(r *Registry) { r.harbor = true } }

// WithoutContentDigest never says the digest of a manifest, as ECR did for years.
func WithoutContentDigest() Option {
	return func(r *Registry) { r.contentDigest = func(string) string { return "" } }
}

// WithWrongContentDigest says the digest of something else instead.
func WithWrongContentDigest() Option {
	return func(r *Registry) {
		r.contentDigest = func(right string) string { return digest.FromString(right).String() }
	}
}

// WithoutDelete refuses to remove manifests, as distribution does unless told
// otherwise: 405 UNSUPPORTED.
func WithoutDelete() Option { return func(r *Registry) { r.noDelete = true } }

// getManifest hides a manifest whose type the client does not name, as
// distribution does.
func (r *Registry) getManifest(w http.ResponseWriter, req *http.Request, request Request) {
	stored := httptest.NewRecorder()
	r.store.ServeHTTP(stored, req)
	accepted := strings.Join(req.Header.Values("Accept"), ",")
	mediaType := stored.Header().Get("Content-Type")
	switch {
	case stored.Code == http.StatusOK && !strings.Contains(accepted, mediaType):
		writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest found, but accept header does not support its type")
	case stored.Code == http.StatusNotFound && r.harbor:
		separator := ":"
		if strings.Contains(request.Reference, ":") {
			separator = "@"
		}
		writeError(w, http.StatusNotFound, "NOT_FOUND",
			fmt.Sprintf("artifact %s%s%s not found", request.Repository, separator, request.Reference))
	default:
		r.sayDigest(stored.Header())
		replay(w, stored)
	}
}

func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, request Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if r.refusesTag(req.Context(), w, request) {
		return
	}
	if r.strict {
		if missing := r.missingContent(req.Context(), request.Repository, body); len(missing) > 0 {
			writeError(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry: "+missing[0])
			return
		}
	}
	if r.fullConfigs && strings.HasSuffix(request.Reference, ".sig") {
		if reason := r.lacksConfig(req.Context(), request.Repository, body); reason != "" {
			writeError(w, http.StatusBadRequest, "MANIFEST_INVALID", "manifest invalid: "+reason)
			return
		}
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	stored := httptest.NewRecorder()
	r.store.ServeHTTP(stored, req)
	if stored.Code == http.StatusCreated {
		r.tellSubject(stored.Header(), body)
		r.sayDigest(stored.Header())
	}
	replay(w, stored)
}

func (r *Registry) deleteManifest(w http.ResponseWriter, req *http.Request) {
	if r.noDelete {
		writeError(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported.")
		return
	}
	r.store.ServeHTTP(w, req)
}

func (r *Registry) sayDigest(header http.Header) {
	const key = "Docker-Content-Digest"
	right := header.Get(key)
	if r.contentDigest == nil || right == "" {
		return
	}
	header.Del(key)
	if said := r.contentDigest(right); said != "" {
		header.Set(key, said)
	}
}

// missingContent are the blobs and manifests that a manifest or an index names
// and the repository does not have.
func (r *Registry) missingContent(ctx context.Context, repository string, body []byte) []string {
	var m struct {
		Config    Descriptor   `json:"config"`
		Layers    []Descriptor `json:"layers"`
		Manifests []Descriptor `json:"manifests"`
	}
	_ = json.Unmarshal(body, &m)
	var missing []string
	for _, d := range append(m.Layers, m.Config) {
		if d.Digest != "" && !r.holds(repository, d.Digest) {
			missing = append(missing, d.Digest)
		}
	}
	for _, d := range m.Manifests {
		if _, _, ok := r.manifest(ctx, repository, d.Digest); !ok {
			missing = append(missing, d.Digest)
		}
	}
	return missing
}

// lacksConfig tells what a config blob lacks to be that of an image.
func (r *Registry) lacksConfig(ctx context.Context, repository string, body []byte) string {
	var m struct {
		Config Descriptor   `json:"config"`
		Layers []Descriptor `json:"layers"`
	}
	_ = json.Unmarshal(body, &m)
	var config struct {
		Architecture *string `json:"architecture"` // may be empty: cosign's are
		OS           *string `json:"os"`
		RootFS       struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	content, _ := r.blob(ctx, repository, m.Config.Digest)
	switch {
	case json.Unmarshal(content, &config) != nil:
		return "config cannot be read"
	case config.Architecture == nil || config.OS == nil:
		return "config has no architecture or os"
	case len(config.RootFS.DiffIDs) != len(m.Layers):
		return fmt.Sprintf("config has %d diff_ids for %d layers", len(config.RootFS.DiffIDs), len(m.Layers))
	}
	return ""
}
