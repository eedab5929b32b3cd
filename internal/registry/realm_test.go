package registry_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// web is all hosts there are: registry.example.com wants a token of realm, and
// what else is asked for is answered by others.
type web struct {
	realm  string
	others http.HandlerFunc

	mu    sync.Mutex
	asked []*http.Request // of the others
}

func (w *web) RoundTrip(req *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	switch {
	case req.URL.Host != "registry.example.com":
		w.mu.Lock()
		w.asked = append(w.asked, req)
		w.mu.Unlock()
		w.others(answer, req)
	case req.Header.Get("Authorization") == "Bearer granted":
		answer.WriteHeader(http.StatusNotFound)
	default:
		answer.Header().Set("WWW-Authenticate", `Bearer realm="`+w.realm+`",service="s"`)
		answer.WriteHeader(http.StatusUnauthorized)
	}
	resp := answer.Result()
	resp.Request = req
	return resp, nil
}

func (w *web) read(t *testing.T, authFile string, insecure bool) error {
	t.Helper()
	o := machine(t)
	o.AuthFile, o.Transport = authFile, w
	verify := !insecure
	o.TLSVerify = &verify
	repository, err := newClient(t, o).Repository("registry.example.com/team/app")
	require.NoError(t, err)
	_, err = repository.Manifest(t.Context(), "v1")
	return err
}

func grant(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte(`{"token":"granted","access_token":"granted"}`))
}

func TestRealmsThatGetNoCredentials(t *testing.T) {
	t.Parallel()
	for realm, named := range map[string]string{
		"http://auth.example.com/token":           "http://auth.example.com/token", // the registry is https
		"http://registry.example.com/token":       "http://registry.example.com/token",
		"https://169.254.169.254/latest/token":    "169.254.169.254", // link-local
		"https://[fe80::1]/token":                 "fe80::1",
		"https://[::ffff:169.254.169.254]/token":  "169.254.169.254",
		"https://[64:ff9b::a9fe:a9fe]/token":      "169.254.169.254",
		"https://127.0.0.1:2375/token":            "127.0.0.1", // of this machine
		"https://[::1]/token":                     "::1",
		"https://localhost/token":                 "localhost",
		"https://0.0.0.0/token":                   "0.0.0.0",
		"https://100.100.100.200/latest":          "100.100.100.200", // a cloud's metadata
		"file:///etc/passwd":                      "file:///etc/passwd",
		"ftp://auth.example.com/token":            "unsupported scheme",
		"//auth.example.com/token":                "unsupported scheme",
		"https://user:pass%zz@auth.example.com/t": "parse",
	} {
		t.Run(realm, func(t *testing.T) {
			t.Parallel()
			w := &web{realm: realm, others: grant}
			err := w.read(t, registrytest.AuthFile(t, "registry.example.com", "ann", "secret"), false)
			requireStatus(t, err, http.StatusUnauthorized)
			require.ErrorContains(t, err, named)
			require.Empty(t, w.asked)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestRealmOfAnotherHost(t *testing.T) {
	t.Parallel()
	w := &web{realm: "https://auth.example.com/token", others: grant}
	err := w.read(t, registrytest.AuthFile(t, "registry.example.com", "ann", "secret"), false)
	require.ErrorIs(t, err, registry.ErrNotFound, "it is let in")
	require.Len(t, w.asked, 1)
	user, password, _ := w.asked[0].BasicAuth()
	require.Equal(t, "ann secret", user+" "+password, "as with Docker Hub")
}

func TestRedirectsOfTokenRequestsTakeNoCredentialsAlong(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		to       string
		followed bool // without credentials
	}{
		"another host":         {"https://thief.example.com/token", true},
		"plain http":           {"http://auth.example.com/token", false},
		"link-local":           {"https://169.254.169.254/token", false},
		"of this machine":      {"https://127.0.0.1/token", false},
		"not on the web":       {"ftp://auth.example.com/token", false},
		"another host's paths": {"https://auth.example.com:8443/token", true},
	}
	for name, test := range tests {
		for kind, file := range map[string]string{
			"user":           registrytest.AuthFile(t, "registry.example.com", "ann", "secret"),
			"identity token": registrytest.IdentityTokenFile(t, "registry.example.com", "secret"),
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				w := &web{realm: "https://auth.example.com/token", others: func(answer http.ResponseWriter, req *http.Request) {
					if req.URL.String() == test.to {
						grant(answer, req)
						return
					}
					answer.Header().Set("Location", test.to)
					answer.WriteHeader(http.StatusTemporaryRedirect)
				}}
				err := w.read(t, file, false)
				if test.followed && kind == "user" {
					require.ErrorIs(t, err, registry.ErrNotFound)
					require.Len(t, w.asked, 2)
					require.Empty(t, w.asked[1].Header.Get("Authorization"))
					return
				}
				require.Error(t, err)
				require.NotErrorIs(t, err, registry.ErrNotFound)
				require.NotContains(t, err.Error(), "secret")
				require.Len(t, w.asked, 1)
			})
		}
	}
}
