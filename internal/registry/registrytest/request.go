package registrytest

import (
	"net/http"
	"strings"
)

// Kind is what a request is about.
type Kind string

// The kinds of requests.
const (
	KindPing      Kind = "ping" // GET /v2/
	KindManifest  Kind = "manifest"
	KindBlob      Kind = "blob"
	KindUpload    Kind = "upload"
	KindReferrers Kind = "referrers"
	KindToken     Kind = "token"
	KindStorage   Kind = "storage" // of a blob, at the host that the registry sends to
	KindOther     Kind = "other"
)

// Request is one request the registry got, also those it refused or failed.
type Request struct {
	Method     string
	Kind       Kind
	Repository string
	Reference  string // tag or digest; of an upload its session
	Query      string
	Status     int // 0 while under way or when there was no answer
	Header     http.Header
	Proto      string // HTTP/1.1 or HTTP/2.0
}

// String is how requests are counted: "GET manifest".
func (r Request) String() string { return r.Method + " " + string(r.Kind) }

func parseRequest(req *http.Request) Request {
	r := Request{Method: req.Method, Kind: KindOther, Query: req.URL.RawQuery, Header: req.Header.Clone(), Proto: req.Proto}
	path, inStorage := strings.CutPrefix(req.URL.Path, storagePath)
	path = strings.TrimPrefix(path, openPath)
	path, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case req.URL.Path == tokenPath:
		r.Kind = KindToken
		return r
	case !ok:
		return r
	case path == "":
		r.Kind = KindPing
		return r
	}
	for _, part := range []struct {
		between string
		kind    Kind
	}{
		{"/manifests/", KindManifest},
		{"/blobs/uploads/", KindUpload},
		{"/blobs/", KindBlob},
		{"/referrers/", KindReferrers},
	} {
		if i := strings.LastIndex(path, part.between); i >= 0 {
			r.Kind, r.Repository, r.Reference = part.kind, path[:i], path[i+len(part.between):]
			if inStorage {
				r.Kind = KindStorage
			}
			return r
		}
	}
	return r
}

func (r *Registry) count(request Request) (number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, request)
	return len(r.requests) - 1
}

func (r *Registry) answered(number, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number < len(r.requests) {
		r.requests[number].Status = status
	}
}

// Requests are all requests since the start or the last Reset, in the order
// they came.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Request(nil), r.requests...)
}

// Counts is how many requests there were of each method and kind.
func (r *Registry) Counts() map[string]int {
	counts := make(map[string]int)
	for _, request := range r.Requests() {
		counts[request.String()]++
	}
	return counts
}

// Reset forgets the requests so far. None should be under way.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}
