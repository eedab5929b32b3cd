package registrytest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// WithoutSinglePost answers a single POST with 202, as distribution does.
func WithoutSinglePost() Option { return func(r *Registry) { r.single = false } }

// UploadLocation is the form of the Location at which an upload goes on.
type UploadLocation int

// The forms of an upload's Location.
const (
	UploadRelative  UploadLocation = iota // a path alone
	UploadWithState                       // a path and a query, which has to come back as it was
	UploadAbsolute                        // a whole URL, with such a query
	UploadPlain                           // a whole URL, without
	UploadToStorage                       // a signed URL of another host
	UploadToHost                          // a URL of another host, without a query
)

// WithUploadLocation answers the beginning of each upload with 202 and a
// Location of that form. It implies WithoutSinglePost.
func WithUploadLocation(form UploadLocation) Option {
	return func(r *Registry) { r.single, r.uploads = false, form }
}

// WithRedirects serves blobs by redirects to signed URLs of another host, the
// storage. Its requests are of Kind KindStorage. It refuses, as S3 does, a
// request that has credentials beside the signature.
func WithRedirects() Option { return func(r *Registry) { r.redirects = true } }

// WithAllRedirects does so for manifests and lists of referrers as well.
func WithAllRedirects() Option {
	return func(r *Registry) { r.redirects, r.redirectsAll = true, true }
}

// uploadState is hard to get right for whoever parses it and puts it together
// again.
const uploadState = "_state=a%2Fb%2Bc%3D&flag&_state=2"

const (
	storagePath      = "/storage"
	openPath         = "/open" // below it the storage wants no signature
	storageSignature = "X-Amz-Signature=hidden%2Fhere"
)

func (r *Registry) needsStorage() bool {
	return r.redirects || r.uploads == UploadToStorage || r.uploads == UploadToHost
}

// startStorage starts the other host.
func (r *Registry) startStorage(t testing.TB) {
	r.storage = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.storage.Config.ErrorLog = r.server.Config.ErrorLog
	if r.tls {
		r.storage.StartTLS()
	} else {
		r.storage.Start()
	}
	t.Cleanup(r.storage.Close)
}

// LoseBlob forgets a blob of a repository, whatever names it.
func (r *Registry) LoseBlob(repository, digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.blobs, repository+"@"+digest)
}

// getBlob keeps the blobs of repositories apart, which the store does not.
func (r *Registry) getBlob(w http.ResponseWriter, req *http.Request, request Request) {
	switch {
	case !r.holds(request.Repository, request.Reference):
		writeError(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
	case r.redirects && isRead(req):
		r.redirect(w, req)
	default:
		r.store.ServeHTTP(w, req)
	}
}

func (r *Registry) upload(w http.ResponseWriter, req *http.Request, request Request) {
	d := req.URL.Query().Get("digest")
	if req.Method == http.MethodPost && d != "" {
		if req.Header.Get("Content-Type") != "application/octet-stream" {
			writeError(w, http.StatusUnsupportedMediaType, "UNSUPPORTED", "an upload is application/octet-stream")
			return
		}
		if !r.single {
			req = req.Clone(req.Context())
			req.URL.RawQuery = ""
		}
	}
	if req.Method == http.MethodPut && (r.uploads == UploadWithState || r.uploads == UploadAbsolute) {
		if !strings.HasPrefix(req.URL.RawQuery, uploadState+"&") {
			writeError(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the state of the upload is not what it was")
			return
		}
	}
	done := httptest.NewRecorder()
	r.store.ServeHTTP(done, req)
	if done.Code == http.StatusCreated {
		r.hold(request.Repository, d)
	}
	if location := done.Header().Get("Location"); done.Code == http.StatusAccepted && location != "" {
		done.Header().Set("Location", r.uploadLocation(location))
	}
	replay(w, done)
}

func (r *Registry) uploadLocation(path string) string {
	switch r.uploads {
	case UploadWithState:
		return path + "?" + uploadState
	case UploadAbsolute:
		return r.URL() + path + "?" + uploadState
	case UploadPlain:
		return r.URL() + path
	case UploadToStorage:
		return r.signed(path)
	case UploadToHost:
		return r.storage.URL + storagePath + openPath + path
	}
	return path
}

// stores tells what a registry that keeps all in a storage redirects to it: what
// it knows to be there.
func (r *Registry) stores(ctx context.Context, request Request) bool {
	switch request.Kind {
	case KindManifest:
		_, _, ok := r.manifest(ctx, request.Repository, request.Reference)
		return ok
	case KindReferrers:
		return r.referrers.listed
	}
	return false
}

func isRead(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Method == http.MethodHead
}

func (r *Registry) redirect(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Location", r.signed(req.URL.Path))
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func (r *Registry) signed(path string) string {
	return r.storage.URL + storagePath + path + "?" + storageSignature
}

// serveStorage is what the registry itself would do, for whoever has the
// signature and nothing else.
func (r *Registry) serveStorage(w http.ResponseWriter, req *http.Request, request Request) {
	if req.Header.Get("Authorization") != "" {
		http.Error(w, "InvalidArgument: Only one auth mechanism allowed", http.StatusBadRequest)
		return
	}
	path, open := strings.CutPrefix(strings.TrimPrefix(req.URL.Path, storagePath), openPath)
	if !open && !strings.HasPrefix(req.URL.RawQuery, storageSignature) {
		http.Error(w, "SignatureDoesNotMatch", http.StatusForbidden)
		return
	}
	d := req.URL.Query().Get("digest")
	inner := req.Clone(req.Context())
	inner.URL = &url.URL{Path: path, RawQuery: url.Values{"digest": {d}}.Encode()}
	switch stored := parseRequest(inner); stored.Kind {
	case KindManifest:
		r.getManifest(w, inner, stored)
		return
	case KindReferrers:
		r.listReferrers(w, inner, stored)
		return
	}
	done := httptest.NewRecorder()
	r.store.ServeHTTP(done, inner)
	if done.Code == http.StatusCreated {
		r.hold(request.Repository, d)
	}
	replay(w, done)
}
