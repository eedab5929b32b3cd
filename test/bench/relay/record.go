package relay

import (
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Tally is what passed since the last Reset.
type Tally struct {
	Requests int
	Kinds    map[string]int // by method and what it was about, as "GET manifest"
	Statuses map[int]int
	// Signed is how many .sig tags were written, each counted once.
	Signed int
	// First is when the first request about an image came in, and Last when the
	// last byte of an answer went out. Pings are not about an image.
	First, Last time.Time
}

// Span is the time from the first request to the last answer.
func (t Tally) Span() time.Duration { return t.Last.Sub(t.First) }

type record struct {
	mu     sync.Mutex
	tally  Tally
	signed map[string]struct{}
}

// Reset forgets what passed.
func (r *Relay) Reset() {
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	r.record.tally, r.record.signed = Tally{}, nil
}

// Tally returns what passed since the last Reset.
func (r *Relay) Tally() Tally {
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	t := r.record.tally
	t.Kinds, t.Statuses, t.Signed = maps.Clone(t.Kinds), maps.Clone(t.Statuses), len(r.record.signed)
	return t
}

func (r *record) asked(q request, at time.Time) {
	kind := kindOf(q.path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tally.Kinds == nil {
		r.tally.Kinds, r.tally.Statuses, r.signed = map[string]int{}, map[int]int{}, map[string]struct{}{}
	}
	r.tally.Requests++
	r.tally.Kinds[q.method+" "+kind]++
	if r.tally.First.IsZero() && kind != "ping" {
		r.tally.First = at
	}
}

func (r *record) answered(q request, status int, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tally.Kinds == nil {
		return // asked before the last Reset
	}
	r.tally.Statuses[status]++
	r.tally.Last = at
	if q.method == http.MethodPut && status == http.StatusCreated && strings.HasSuffix(q.path, ".sig") {
		r.signed[q.path] = struct{}{}
	}
}

func (r *record) continued(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Last = at
}

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
	}
	return "other"
}
