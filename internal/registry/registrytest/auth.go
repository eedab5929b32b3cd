package registrytest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const tokenPath = "/token"

// authorizer is nobody's by default: everything is allowed.
type authorizer struct {
	scheme         string // "", Basic or Bearer
	user, password string
	refresh        string // token that is exchanged for others, instead of user and password
	life           int    // of a token, in seconds; 0 says nothing of it

	mu     sync.Mutex
	issued int
	tokens map[string][]string // scopes by token
}

// WithBasicAuth wants user and password with each request.
func WithBasicAuth(user, password string) Option {
	return func(r *Registry) {
		r.auth.scheme, r.auth.user, r.auth.password = "Basic", user, password
	}
}

// WithTokenAuth wants tokens, which the registry's own token server gives to
// user, for life seconds (0: it does not say). Without a user it gives them to
// anybody who names none.
func WithTokenAuth(user, password string, life int) Option {
	return func(r *Registry) {
		r.auth.scheme, r.auth.user, r.auth.password, r.auth.life = "Bearer", user, password, life
	}
}

// WithIdentityToken wants tokens, which the registry's own token server gives
// in exchange for token (OAuth2, grant type refresh_token), for life seconds.
func WithIdentityToken(token string, life int) Option {
	return func(r *Registry) {
		r.auth.scheme, r.auth.refresh, r.auth.life = "Bearer", token, life
	}
}

// IdentityTokenFile writes an auth.json with an identity token for name.
func IdentityTokenFile(t testing.TB, name, token string) string {
	t.Helper()
	return writeAuthFile(t, name, map[string]string{
		"auth": base64.StdEncoding.EncodeToString([]byte("<token>:")), "identitytoken": token,
	})
}

// AuthFile writes an auth.json with user and password for name, a host or a
// repository.
func AuthFile(t testing.TB, name, user, password string) string {
	t.Helper()
	secret := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return writeAuthFile(t, name, map[string]string{"auth": secret})
}

func writeAuthFile(t testing.TB, name string, entry map[string]string) string {
	t.Helper()
	content, err := json.Marshal(map[string]any{"auths": map[string]any{name: entry}})
	must(t, err)
	path := filepath.Join(t.TempDir(), "auth.json")
	must(t, os.WriteFile(path, content, 0o600))
	return path
}

// RevokeTokens makes all tokens given so far worthless.
func (r *Registry) RevokeTokens() {
	r.auth.mu.Lock()
	defer r.auth.mu.Unlock()
	r.auth.tokens = nil
}

func (a *authorizer) allows(req *http.Request, request Request) bool {
	switch a.scheme {
	case "Basic":
		user, password, ok := req.BasicAuth()
		return ok && user == a.user && password == a.password
	case "Bearer":
		value, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		return ok && a.grants(value, request)
	}
	return true
}

func (a *authorizer) grants(token string, request Request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	scopes, ok := a.tokens[token]
	if !ok || request.Repository == "" {
		return ok
	}
	return slices.ContainsFunc(scopes, func(scope string) bool {
		actions, ok := strings.CutPrefix(scope, "repository:"+request.Repository+":")
		return ok && slices.Contains(strings.Split(actions, ","), action(request))
	})
}

func action(request Request) string {
	if request.Method == http.MethodGet || request.Method == http.MethodHead {
		return "pull"
	}
	return "push"
}

func (a *authorizer) challenge(w http.ResponseWriter, url string, request Request) {
	challenge := `Basic realm="registrytest"`
	if a.scheme == "Bearer" {
		challenge = fmt.Sprintf(`Bearer realm="%s%s",service="registrytest"`, url, tokenPath)
		if request.Repository != "" {
			challenge += fmt.Sprintf(`,scope="repository:%s:%s"`, request.Repository, action(request))
		}
	}
	w.Header().Set("WWW-Authenticate", challenge)
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

// asked is what a request for a token wants it for, if it may have one.
func (a *authorizer) asked(req *http.Request) (scopes []string, ok bool) {
	if a.refresh != "" {
		ok = req.FormValue("grant_type") == "refresh_token" && req.PostFormValue("refresh_token") == a.refresh
		return strings.Fields(req.PostFormValue("scope")), ok
	}
	user, password, _ := req.BasicAuth()
	return req.URL.Query()["scope"], user == a.user && password == a.password
}

func (a *authorizer) serveToken(w http.ResponseWriter, req *http.Request) {
	scopes, ok := a.asked(req)
	if !ok {
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong user or password")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issued++
	value := fmt.Sprintf("token-%d", a.issued)
	if a.tokens == nil {
		a.tokens = make(map[string][]string)
	}
	a.tokens[value] = scopes
	answer := map[string]any{"token": value, "access_token": value}
	if a.life > 0 {
		answer["expires_in"] = a.life
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}
