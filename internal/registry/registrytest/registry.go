// Package registrytest is a registry for tests: one that keeps everything in
// memory, is as strict as a real one where that matters to a client, counts
// the requests it gets and fails them on demand.
//
// It decides what the registry does; it does not know who asks, so what a test
// expects is the test's.
package registrytest

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Registry is a registry that serves until its test ends.
type Registry struct {
	store  http.Handler
	server *httptest.Server
	tls    bool
	single bool // a single POST uploads
	strict bool // a manifest needs what it names
	auth   authorizer

	referrers     referrersAPI
	immutable     Immutable
	fullConfigs   bool
	harbor        bool
	noDelete      bool
	contentDigest func(right string) string // as it is said, empty if not at all; nil: as it is
	uploads       UploadLocation
	redirects     bool // of blobs
	redirectsAll  bool // of all reads
	storage       *httptest.Server

	closing chan struct{} // lets go of requests that hang

	mu       sync.Mutex
	requests []Request
	faults   []*planned
	blobs    map[string]bool // repository@digest
}

// Option makes a registry differ from the plain one: http, no credentials,
// single POST, a manifest's blobs must be there.
type Option func(*Registry)

// WithTLS serves https. Clients trust it through CertsDir.
func WithTLS() Option { return func(r *Registry) { r.tls = true } }

// New starts a registry.
func New(t testing.TB, options ...Option) *Registry {
	t.Helper()
	r := &Registry{
		store:   registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)),
		single:  true,
		strict:  true,
		closing: make(chan struct{}),
		blobs:   make(map[string]bool),
	}
	for _, option := range options {
		option(r)
	}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.server.EnableHTTP2 = true
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if r.tls {
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	if r.needsStorage() {
		r.startStorage(t)
	}
	t.Cleanup(func() {
		close(r.closing)
		r.server.Close()
	})
	return r
}

// Host is the registry's host:port.
func (r *Registry) Host() string { return r.server.Listener.Addr().String() }

// URL is the registry's root, with its scheme.
func (r *Registry) URL() string { return r.server.URL }

// CertsDir writes a certs.d directory by which the registry is trusted.
func (r *Registry) CertsDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	host := filepath.Join(dir, r.Host())
	must(t, os.Mkdir(host, 0o700))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
	must(t, os.WriteFile(filepath.Join(host, "ca.crt"), ca, 0o600))
	return dir
}

// serve is the way of every request: counted, failed if planned, refused if
// not authorized, else done.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	request := parseRequest(req)
	number := r.count(request)
	recorded := &statusRecorder{ResponseWriter: w}
	defer func() { r.answered(number, recorded.status) }()

	if fault, ok := r.faultFor(request); ok {
		if fault.Revoke {
			r.RevokeTokens()
			r.handle(recorded, req, request)
			return
		}
		if fault.Applied {
			r.handle(httptest.NewRecorder(), req, request)
		}
		r.strike(recorded, req, fault)
		return
	}
	r.handle(recorded, req, request)
}

func (r *Registry) handle(w http.ResponseWriter, req *http.Request, request Request) {
	switch {
	case request.Kind == KindStorage:
		r.serveStorage(w, req, request)
	case request.Kind == KindToken:
		r.auth.serveToken(w, req)
	case !r.auth.allows(req, request):
		r.auth.challenge(w, r.URL(), request)
	case r.redirectsAll && isRead(req) && r.stores(req.Context(), request):
		r.redirect(w, req)
	case request.Kind == KindManifest && isRead(req):
		r.getManifest(w, req, request)
	case request.Kind == KindManifest && req.Method == http.MethodPut:
		r.putManifest(w, req, request)
	case request.Kind == KindManifest && req.Method == http.MethodDelete:
		r.deleteManifest(w, req)
	case request.Kind == KindReferrers:
		r.listReferrers(w, req, request)
	case request.Kind == KindBlob:
		r.getBlob(w, req, request)
	case request.Kind == KindUpload:
		r.upload(w, req, request)
	default:
		r.store.ServeHTTP(w, req)
	}
}

func (r *Registry) hold(repository, digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[repository+"@"+digest] = true
}

func (r *Registry) holds(repository, digest string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[repository+"@"+digest]
}

// inside is a request that a test makes of the store itself: not counted, not
// failed, not authorized.
func (r *Registry) inside(ctx context.Context, method, path, contentType string, body []byte) *httptest.ResponseRecorder {
	req := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(string(body)))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	r.store.ServeHTTP(w, req)
	return w
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusRecorder) Write(body []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(body)
}

// Unwrap lets a fault get at the connection.
func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func replay(w http.ResponseWriter, recorded *httptest.ResponseRecorder) {
	for key, values := range recorded.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
