package peers

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"time"
)

// Request is one request that a proxy saw.
type Request struct {
	Method string
	Kind   string // what its path is about: ping, manifest, blob, upload, referrers, tags or other
	Path   string
	Status int // what was answered; 0 when the answer was withheld
	// Aborted is true when the client had gone before it was answered.
	Aborted bool
	At      time.Time // of the answer
}

// Written is a signature manifest that a client was told is stored.
type Written struct {
	Repository string // without the host
	Tag        string // sha256-....sig
	Body       []byte
}

// Fault is what a proxy does to a request instead of passing it on unharmed.
// The zero value is no fault.
type Fault struct {
	Hold   <-chan struct{} // first wait until this is closed
	Delay  time.Duration   // then wait so long
	Hang   bool            // then never answer
	Status int             // or answer so, without asking the registry
	Header http.Header     // with this beside the status
	Lose   bool            // or let the registry do it, and cut the connection without an answer
}

// FaultFunc chooses the fault of a request; n counts requests from 0. It is
// called for one request at a time.
type FaultFunc func(n int, r *http.Request) Fault

// FailShare answers a share (0 to 1) of the requests with a status, evenly spread.
func FailShare(share float64, status int) FaultFunc {
	return func(n int, _ *http.Request) Fault {
		if int(float64(n+1)*share) > int(float64(n)*share) {
			return Fault{Status: status}
		}
		return Fault{}
	}
}

// FailFirst answers the first requests with a status.
func FailFirst(count, status int) FaultFunc {
	return func(n int, _ *http.Request) Fault {
		if n < count {
			return Fault{Status: status}
		}
		return Fault{}
	}
}

// Always gives every request the same fault.
func Always(f Fault) FaultFunc {
	return func(int, *http.Request) Fault { return f }
}

// Proxy stands in front of a registry, counts what passes and spoils what it
// is told to. Clients speak plain http to it; Location headers lead back to it.
type Proxy struct {
	server    *httptest.Server
	transport *http.Transport
	closed    chan struct{}

	mu       sync.Mutex
	fault    FaultFunc
	seen     int // since the fault was set
	requests []Request
	written  []Written
	arrived  chan struct{} // closed and replaced at each request
}

// StartProxy starts a proxy on a free port of 127.0.0.1. Close it.
func StartProxy(registry string, access Access) (*Proxy, error) {
	transport, err := access.transport()
	if err != nil {
		return nil, err
	}
	p := &Proxy{transport: transport, closed: make(chan struct{}), arrived: make(chan struct{})}
	scheme := "http"
	if !access.PlainHTTP {
		scheme = "https"
	}
	forward := &httputil.ReverseProxy{
		// The Host stays the client's: the registry makes its Location of it.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = scheme, registry
		},
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.serve(forward, w, r)
	}))
	return p, nil
}

// Host returns the proxy's address, as references begin.
func (p *Proxy) Host() string { return p.server.Listener.Addr().String() }

// SetFault spoils requests from now on; nil stops it.
func (p *Proxy) SetFault(f FaultFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.seen = f, 0
}

// Requests returns the requests since the start or the last Reset, in the
// order of their answers.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Request(nil), p.requests...)
}

// Written returns the signature manifests that were written since the start and
// answered with 201, in the order of the answers.
func (p *Proxy) Written() []Written {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Written(nil), p.written...)
}

// Counts returns how many requests there were of each method and kind, such as
// "GET manifest".
func (p *Proxy) Counts() map[string]int {
	counts := map[string]int{}
	for _, r := range p.Requests() {
		counts[r.Method+" "+r.Kind]++
	}
	return maps.Clone(counts)
}

// Reset forgets the requests seen.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

// Seen returns how many requests came in since the fault was last set, with
// those that are not answered yet.
func (p *Proxy) Seen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Arrived returns a channel that is closed when the next request comes in.
func (p *Proxy) Arrived() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arrived
}

// Close ends hanging requests and the proxy.
func (p *Proxy) Close() {
	close(p.closed)
	p.server.CloseClientConnections()
	p.server.Close()
	p.transport.CloseIdleConnections()
}

func (p *Proxy) serve(forward http.Handler, w http.ResponseWriter, r *http.Request) {
	fault := p.next(r)
	noted := Request{Method: r.Method, Kind: kindOf(r.URL.Path), Path: r.URL.Path}
	// Noted before the end of the answer reaches the client, who may count at once.
	note := func(status int) {
		noted.Status, noted.Aborted, noted.At = status, r.Context().Err() != nil, time.Now()
		p.note(noted)
	}
	if !p.hold(r, fault.Hold) || !p.wait(r, fault.Delay) || fault.Hang && !p.hang(r) {
		note(0)
		panic(http.ErrAbortHandler)
	}
	switch {
	case fault.Status != 0:
		maps.Copy(w.Header(), fault.Header)
		note(fault.Status)
		w.WriteHeader(fault.Status)
	case fault.Lose:
		forward.ServeHTTP(httptest.NewRecorder(), r)
		note(0)
		panic(http.ErrAbortHandler)
	default:
		keep := p.attachment(r)
		forward.ServeHTTP(&notingWriter{ResponseWriter: w, note: func(status int) {
			note(status)
			keep(status)
		}}, r)
	}
}

// attachment reads the signature manifest that a request writes, if it does, and
// returns what keeps it once the answer is known.
func (p *Proxy) attachment(r *http.Request) (keep func(status int)) {
	repository, tag, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	if r.Method != http.MethodPut || !ok || !strings.HasSuffix(tag, ".sig") {
		return func(int) {}
	}
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return func(status int) {
		if err == nil && status == http.StatusCreated {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.written = append(p.written, Written{Repository: repository, Tag: tag, Body: body})
		}
	}
}

// next counts a request in and chooses its fault.
func (p *Proxy) next(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.arrived)
	p.arrived = make(chan struct{})
	n := p.seen
	p.seen++
	if p.fault == nil {
		return Fault{}
	}
	return p.fault(n, r)
}

func (p *Proxy) note(r Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r)
}

// hold says false when the client or the proxy ended first.
func (p *Proxy) hold(r *http.Request, until <-chan struct{}) bool {
	if until == nil {
		return true
	}
	select {
	case <-until:
		return true
	case <-r.Context().Done():
	case <-p.closed:
	}
	return false
}

// wait says false when the client or the proxy ended first.
func (p *Proxy) wait(r *http.Request, d time.Duration) bool {
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-p.closed:
	}
	return false
}

// hang always says false, once the client or the proxy gave up.
func (p *Proxy) hang(r *http.Request) bool {
	select {
	case <-r.Context().Done():
	case <-p.closed:
	}
	return false
}

// notingWriter notes the status of an answer when it is first written.
type notingWriter struct {
	http.ResponseWriter
	note  func(status int)
	noted bool
}

// WriteHeader implements http.ResponseWriter.
func (w *notingWriter) WriteHeader(status int) {
	if !w.noted && status >= http.StatusOK {
		w.noted = true
		w.note(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets the reverse proxy flush.
func (w *notingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// kindOf names what a path of the distribution API is about.
func kindOf(path string) string {
	switch {
	case path == "/v2/" || path == "/v2":
		return "ping"
	case strings.Contains(path, "/blobs/uploads/"):
		return "upload"
	case strings.Contains(path, "/blobs/"):
		return "blob"
	case strings.Contains(path, "/manifests/"):
		return "manifest"
	case strings.Contains(path, "/referrers/"):
		return "referrers"
	case strings.HasSuffix(path, "/tags/list"):
		return "tags"
	}
	return "other"
}
