package registrytest

import (
	"encoding/json"
	"io"
	"net/http"
)

// Match says which requests a fault is for. An empty field matches all.
type Match struct {
	Method     string
	Kind       Kind
	Repository string
	Reference  string
}

// Always is the Times of a fault that does not end.
const Always = -1

// Fault is what happens to a request instead of its answer: it hangs, its
// connection is cut, or it is answered with Status.
type Fault struct {
	Times   int  // 0 is once
	Applied bool // the registry does what was asked, only the answer is another
	Revoke  bool // all tokens given so far are worthless from now on; nothing else happens

	Hang       bool // until the client or the registry goes
	Cut        bool // before any answer
	CutRequest bool // in the middle of its body, of which half is read
	CutAnswer  bool // in the middle of the answer, which is Status and Body

	Status      int
	Code        string // with Message makes a body of the usual form
	Message     string
	Body        string // instead of Code and Message
	ContentType string // of Body
	RetryAfter  string
	Header      http.Header // further ones
}

type planned struct {
	match Match
	fault Fault
	left  int
}

// Fail plans a fault for the requests that match. The first one planned that
// matches is the one that happens.
func (r *Registry) Fail(m Match, f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := f.Times
	if left == 0 {
		left = 1
	}
	r.faults = append(r.faults, &planned{match: m, fault: f, left: left})
}

// Heal drops all faults planned.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

func (r *Registry) faultFor(request Request) (Fault, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.faults {
		if p.left != 0 && p.match.matches(request) {
			if p.left > 0 {
				p.left--
			}
			return p.fault, true
		}
	}
	return Fault{}, false
}

func (m Match) matches(r Request) bool {
	return (m.Method == "" || m.Method == r.Method) &&
		(m.Kind == "" || m.Kind == r.Kind) &&
		(m.Repository == "" || m.Repository == r.Repository) &&
		(m.Reference == "" || m.Reference == r.Reference)
}

func (r *Registry) strike(w http.ResponseWriter, req *http.Request, f Fault) {
	if f.CutRequest {
		_, _ = io.CopyN(io.Discard, req.Body, req.ContentLength/2)
		panic(http.ErrAbortHandler)
	}
	// A server notices that its client has gone once the body is read.
	_, _ = io.Copy(io.Discard, req.Body)
	switch {
	case f.Hang:
		select {
		case <-req.Context().Done():
		case <-r.closing:
		}
		panic(http.ErrAbortHandler)
	case f.Cut:
		panic(http.ErrAbortHandler)
	}
	for key, values := range f.Header {
		w.Header()[key] = values
	}
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	if f.CutAnswer {
		w.Header().Set("Content-Type", f.ContentType)
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if f.Body != "" || f.Code == "" && f.Message == "" {
		w.Header().Set("Content-Type", f.ContentType)
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return
	}
	writeError(w, f.Status, f.Code, f.Message)
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	body, _ := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
