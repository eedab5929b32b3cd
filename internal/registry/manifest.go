package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// The media types a manifest can have.
const (
	mediaTypeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	mediaTypeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	mediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeSchema1        = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// maxManifestBytes is what registries accept, and what containers/image reads.
const maxManifestBytes = 4 << 20

// acceptManifests names all of them always: a registry that holds a type which
// is not named says that there is no such manifest.
const acceptManifests = mediaTypeOCIIndex + ", " + mediaTypeOCIManifest + ", " +
	mediaTypeDockerList + ", " + mediaTypeDockerManifest + ", " +
	mediaTypeSchema1Signed + ", " + mediaTypeSchema1

// Manifest is an image's manifest, an index, or whatever a tag leads to.
type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Body      []byte
}

// Manifest reads what reference, a tag or a digest, leads to. Its digest is of
// the bytes read; one that the registry or the caller has named must be the
// same. ErrNotFound is in the chain of the error when there is none.
func (r *Repository) Manifest(ctx context.Context, reference string) (Manifest, error) {
	subject := r.describe("read manifest", reference)
	if err := checkReference(subject, reference); err != nil {
		return Manifest{}, err
	}
	a, err := r.do(ctx, request{
		op:     subject,
		method: http.MethodGet,
		path:   "/manifests/" + reference,
		accept: acceptManifests,
		limit:  maxManifestBytes,
	}, http.StatusOK)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{
		MediaType: manifestType(a.header.Get("Content-Type"), a.body),
		Digest:    digest.FromBytes(a.body),
		Body:      a.body,
	}
	if m.MediaType == mediaTypeSchema1Signed {
		// Its digest leaves out the signatures inside it. Nothing is signed by
		// way of it, so that it need not be taken apart to be checked.
		return m, nil
	}
	for _, want := range [...]string{reference, a.header.Get("Docker-Content-Digest")} {
		if want == string(m.Digest) {
			continue
		}
		if err := checkDigest(subject, want, a.body); err != nil {
			return Manifest{}, err
		}
	}
	if isDigest(reference) {
		m.Digest = digest.Digest(reference)
	}
	return m, nil
}

// PutManifest writes body as it is under reference, a tag or its own digest.
// begin may be nil.
func (r *Repository) PutManifest(ctx context.Context, reference, mediaType string, body []byte, begin BeginWrite) error {
	subject := r.describe("write manifest", reference)
	if err := checkReference(subject, reference); err != nil {
		return err
	}
	if err := checkDigest(subject, reference, body); err != nil {
		return err
	}
	if len(body) > maxManifestBytes {
		return &TooLargeError{Subject: subject, Limit: maxManifestBytes}
	}
	a, err := r.do(ctx, request{
		op:          subject,
		method:      http.MethodPut,
		path:        "/manifests/" + reference,
		contentType: mediaType,
		body:        body,
		begin:       begin,
	}, http.StatusCreated)
	if err != nil {
		return err
	}
	r.host.referrers.noteSubject(r.at.path, a.header, body)
	return checkDigest(subject, a.header.Get("Docker-Content-Digest"), body)
}

// Has tells whether the repository has the manifest of a digest.
func (r *Repository) Has(ctx context.Context, d digest.Digest) (bool, error) {
	subject := r.describe("look for manifest", d.String())
	if err := d.Validate(); err != nil {
		return false, fmt.Errorf("%s: %w", subject, err)
	}
	a, err := r.do(ctx, request{
		op:     subject,
		method: http.MethodHead,
		path:   "/manifests/" + d.String(),
		accept: acceptManifests,
	}, http.StatusOK)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	named := digest.Digest(a.header.Get("Docker-Content-Digest"))
	if named.Validate() == nil && named != d && named.Algorithm() == d.Algorithm() {
		return false, &MismatchError{Subject: subject, Want: d, Got: named}
	}
	return true, nil
}

// DeleteManifest removes the manifest of a digest. Not every registry lets
// anybody do that, and few let those who may only push.
func (r *Repository) DeleteManifest(ctx context.Context, d digest.Digest) error {
	subject := r.describe("delete manifest", d.String())
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	_, err := r.do(ctx, request{
		op:     subject,
		method: http.MethodDelete,
		path:   "/manifests/" + d.String(),
		scope:  auth.ScopeRepository(r.at.path, auth.ActionPull, auth.ActionPush, auth.ActionDelete),
	}, http.StatusAccepted)
	return err
}

// checkDigest compares when want is a digest that can be computed here. Not
// every registry names one, and a tag is none.
func checkDigest(subject, want string, body []byte) error {
	if !isDigest(want) {
		return nil
	}
	expected := digest.Digest(want)
	if got := expected.Algorithm().FromBytes(body); got != expected {
		return &MismatchError{Subject: subject, Want: expected, Got: got}
	}
	return nil
}

var tagPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// checkReference keeps a reference from leading to another path.
func checkReference(subject, reference string) error {
	if !isDigest(reference) && !tagPattern.MatchString(reference) {
		return fmt.Errorf("%s: neither a tag nor a digest", subject)
	}
	return nil
}

func isDigest(reference string) bool {
	if encoded, ok := strings.CutPrefix(reference, "sha256:"); ok { // nearly all are, and a pattern takes its time
		return len(encoded) == 64 && strings.Trim(encoded, "0123456789abcdef") == ""
	}
	return strings.Contains(reference, ":") && digest.Digest(reference).Validate() == nil
}

// manifestType believes the header where it says something, as registries may
// store manifests whose body does not.
func manifestType(contentType string, body []byte) string {
	mediaType, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil, mediaType == "text/plain", mediaType == "application/json", mediaType == "application/octet-stream":
	default:
		return mediaType
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Signatures    json.RawMessage `json:"signatures"`
	}
	if json.Unmarshal(body, &m) != nil {
		return mediaType
	}
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.SchemaVersion == 1 && m.Signatures != nil:
		return mediaTypeSchema1Signed
	case m.SchemaVersion == 1:
		return mediaTypeSchema1
	case m.Manifests != nil:
		return mediaTypeOCIIndex
	case m.Config != nil:
		return mediaTypeOCIManifest
	}
	return mediaType
}
