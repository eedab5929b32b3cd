package registrytest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// referrersAPI is nobody's by default: the path is not known.
type referrersAPI struct {
	listed bool
	header bool
	page   int // entries of one; 0: all are on one
}

// WithReferrers has the referrers API: GET referrers lists the manifests with
// that subject, by digest. With header a manifest that has a subject is
// answered with OCI-Subject, as the specification wants and Harbor and zot do;
// without it is not, as with Quay.
//
// Without this option GET referrers is a 404. Other ways of not having the API
// (400, 405, a page of HTML) are planned with Fail, Kind KindReferrers, Always.
func WithReferrers(header bool) Option {
	return func(r *Registry) { r.referrers.listed, r.referrers.header = true, header }
}

// WithReferrersPages lists size referrers at a time, linked by Link headers.
func WithReferrersPages(size int) Option { return func(r *Registry) { r.referrers.page = size } }

// referrer is a descriptor in an answer of the referrers API.
type referrer struct {
	Descriptor
	ArtifactType string `json:"artifactType,omitempty"`
}

func (r *Registry) listReferrers(w http.ResponseWriter, req *http.Request, request Request) {
	if !r.referrers.listed || req.Method != http.MethodGet {
		http.NotFound(w, req) // as distribution does
		return
	}
	answer := r.inside(req.Context(), http.MethodGet, req.URL.Path, "", nil)
	if answer.Code != http.StatusOK && answer.Code != http.StatusNotFound {
		replay(w, answer)
		return
	}
	var list struct {
		Manifests []referrer `json:"manifests"`
	}
	_ = json.Unmarshal(answer.Body.Bytes(), &list) // what is not there has no referrers
	slices.SortFunc(list.Manifests, func(a, b referrer) int { return strings.Compare(a.Digest, b.Digest) })
	if size := r.referrers.page; size > 0 {
		begin, _ := strconv.Atoi(req.URL.Query().Get("begin"))
		begin = min(max(begin, 0), len(list.Manifests))
		if end := begin + size; end < len(list.Manifests) {
			w.Header().Set("Link", fmt.Sprintf(`<%s?begin=%d>; rel="next"`, req.URL.Path, end))
			list.Manifests = list.Manifests[:end]
		}
		list.Manifests = list.Manifests[begin:]
	}
	for i := range list.Manifests {
		list.Manifests[i].ArtifactType = r.artifactType(req.Context(), request.Repository, list.Manifests[i].Digest)
	}
	w.Header().Set("Content-Type", OCIIndex)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"schemaVersion": 2, "mediaType": OCIIndex, "manifests": append([]referrer{}, list.Manifests...),
	})
}

// artifactType is what the specification wants in a referrer's descriptor. The
// store knows only one half of it.
func (r *Registry) artifactType(ctx context.Context, repository, digest string) string {
	var m struct {
		ArtifactType string     `json:"artifactType"`
		Config       Descriptor `json:"config"`
	}
	_, body, _ := r.manifest(ctx, repository, digest)
	_ = json.Unmarshal(body, &m)
	if m.ArtifactType != "" {
		return m.ArtifactType
	}
	return m.Config.MediaType
}

// tellSubject tells of the API in the answer to a manifest.
func (r *Registry) tellSubject(header http.Header, manifest []byte) {
	var m struct {
		Subject *Descriptor `json:"subject"`
	}
	if r.referrers.header && json.Unmarshal(manifest, &m) == nil && m.Subject != nil {
		header.Set("OCI-Subject", m.Subject.Digest)
	}
}
