package registry

import (
	"runtime"
	"testing"
	"time"
)

// AwaitWaiting returns once n callers wait for one piece of shared work.
func AwaitWaiting(t *testing.T, r *Repository, n int) {
	t.Helper()
	waiting := func() int {
		f := r.client.shared
		f.mu.Lock()
		defer f.mu.Unlock()
		most := 0
		for _, shared := range f.flying {
			most = max(most, shared.waiting)
		}
		return most
	}
	for waiting() < n {
		if t.Context().Err() != nil {
			t.Fatal("nobody waits")
		}
		runtime.Gosched()
	}
}

// AgeTokens makes the tokens of r's registry older than they are.
func AgeTokens(r *Repository, by time.Duration) {
	c := r.host.auth.Cache.(*tokenCache)
	c.mu.Lock()
	defer c.mu.Unlock()
	aged := make(map[*token]bool)
	for _, t := range c.tokens {
		if !aged[t] {
			aged[t] = true
			t.expires, t.renewAt = t.expires.Add(-by), t.renewAt.Add(-by)
		}
	}
}
