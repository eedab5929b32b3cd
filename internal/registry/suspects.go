package registry

import (
	"net/http"
	"strings"
	"sync/atomic"
)

const (
	// maxSuspicion is how many pauses in a row the requests of one kind may bring
	// over a host that accepts others in between. From then on they wait alone.
	maxSuspicion = 3

	maxSuspects = 1 << 10 // kinds; nobody has as many that are all refused
)

// suspects are the kinds of requests that a host refuses while it accepts others:
// it has a limit for them of their own, such as a quota of one repository. Were
// each refusal taken for the host's, one image would slow down all.
type suspects struct {
	some atomic.Bool
	// refused is how often in a row, each time after something else was accepted.
	// Needs the throttle's mu.
	refused map[string]int
}

// kindOf is what requests have in common that a host may have a limit for: what
// is done, with which things of which repository.
func kindOf(req *http.Request) string {
	path := req.URL.Path
	for _, things := range []string{"/manifests/", "/blobs/", "/referrers/"} {
		if before, _, ok := strings.Cut(path, things); ok {
			path = before + things
			break
		}
	}
	return req.Method + " " + path
}

// refuse notes a refusal, and reports whether the host means this kind alone.
func (s *suspects) refuse(kind string) (alone bool, times int) {
	if s.refused == nil || len(s.refused) >= maxSuspects {
		s.refused = make(map[string]int)
	}
	s.refused[kind]++
	s.some.Store(true)
	return s.refused[kind] > maxSuspicion, s.refused[kind] - maxSuspicion
}

// accept clears a kind.
func (s *suspects) accept(kind string) {
	delete(s.refused, kind)
	s.some.Store(len(s.refused) > 0)
}
