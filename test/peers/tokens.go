package peers

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"
)

const (
	tokenIssuer  = "signfleet-test-issuer"
	tokenService = "signfleet-test-registry"
)

// TokenServer issues the bearer tokens of a registry with token
// authentication. It knows one account ([User], [Password]), grants it all
// that is asked for, and grants nothing to others.
type TokenServer struct {
	key    *ecdsa.PrivateKey
	chain  string // the certificate, as in the x5c header
	life   time.Duration
	issued atomic.Int64
	server *httptest.Server
}

func startTokenServer(ca *authority, life time.Duration) (*TokenServer, error) {
	key, cert, err := ca.issue()
	if err != nil {
		return nil, err
	}
	if life == 0 {
		life = 5 * time.Minute
	}
	s := &TokenServer{key: key, chain: base64.StdEncoding.EncodeToString(cert.Raw), life: life}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s, nil
}

// Issued returns how many tokens were handed out.
func (s *TokenServer) Issued() int { return int(s.issued.Load()) }

// realm names the server by localhost, as the registry is named then.
func (s *TokenServer) realm() string {
	return strings.Replace(s.server.URL, "127.0.0.1", "localhost", 1) + "/token"
}

func (s *TokenServer) close() { s.server.Close() }

// serve answers both flows of the token specification: GET with basic
// credentials, and POST with a password grant.
func (s *TokenServer) serve(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	user, password, given := r.BasicAuth()
	if r.Method == http.MethodPost {
		user, password, given = r.Form.Get("username"), r.Form.Get("password"), true
	}
	known := user == User && password == Password
	if given && !known {
		w.Header().Set("WWW-Authenticate", `Basic realm="tokens"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"unknown account"}]}`, http.StatusUnauthorized)
		return
	}
	var grants []grant
	if known {
		grants = grantsOf(r.Form["scope"])
	}
	token, err := s.token(user, grants)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.issued.Add(1)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client is gone: nobody to tell
		"token":        token,
		"access_token": token,
		"expires_in":   int(s.life.Seconds()),
		"issued_at":    time.Now().UTC().Format(time.RFC3339),
	})
}

// grant is one entry of the access claim.
type grant struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// grantsOf reads scopes like "repository:library/app:pull,push"; one parameter
// may hold several, separated by spaces.
func grantsOf(scopes []string) []grant {
	var grants []grant
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		kind, rest, _ := strings.Cut(scope, ":")
		name, actions, ok := cutLast(rest, ":")
		if ok {
			grants = append(grants, grant{Type: kind, Name: name, Actions: strings.Split(actions, ",")})
		}
	}
	return grants
}

// cutLast is strings.Cut from the end: a repository's name may hold a colon.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// token makes the JSON Web Token (ES256) that distribution expects.
func (s *TokenServer) token(subject string, grants []grant) (string, error) {
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{s.chain}})
	if err != nil {
		return "", err
	}
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": tokenIssuer, "sub": subject, "aud": tokenService, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(s.life).Unix(), "access": grants,
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	r, t, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	t.FillBytes(signature[32:])
	return signed + "." + encode(signature), nil
}
