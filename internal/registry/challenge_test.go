package registry_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestTokensAreAskedForUpFront(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		option registrytest.Option
		stored func(t testing.TB, host string) string // nil: nothing
		token  string                                 // how it is asked for
	}{
		"user":           {registrytest.WithTokenAuth("ann", "secret", 300), func(t testing.TB, host string) string { return registrytest.AuthFile(t, host, "ann", "secret") }, "GET token"},
		"anonymous":      {registrytest.WithTokenAuth("", "", 300), nil, "GET token"},
		"identity token": {registrytest.WithIdentityToken("lasting", 300), func(t testing.TB, host string) string { return registrytest.IdentityTokenFile(t, host, "lasting") }, "POST token"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, test.option)
			o := machine(t)
			if test.stored != nil {
				o.AuthFile = test.stored(t, r.Host())
			}
			client := newClient(t, o)
			for _, path := range []string{"team/app", "team/other", "team/third"} {
				r.PushManifest(t, path, "v1", "linux/amd64")
			}
			_, err := repositoryOf(t, client, r, "team/app").Manifest(t.Context(), "v1")
			require.NoError(t, err)
			require.Equal(t, map[string]int{"GET manifest": 2, test.token: 1}, r.Counts(), "the first one is refused")

			r.Reset()
			_, err = repositoryOf(t, client, r, "team/other").Manifest(t.Context(), "v1")
			require.NoError(t, err)
			require.Equal(t, map[string]int{"GET manifest": 1, test.token: 1}, r.Counts())

			r.Reset()
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() {
					if err := repositoryOf(t, client, r, "team/third").PutBlob(t.Context(), fmt.Append(nil, i)); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			require.Equal(t, map[string]int{"POST upload": 20, test.token: 1}, r.Counts(), "bodies are sent once, and one token serves all")
		})
	}
}

// server is a registry of one manifest for everybody whom it lets in, with a
// token server.
type server struct {
	*httptest.Server
	realm, scheme string
	scope         func(repository string) string // what is challenged with and has to be granted
	public        string                         // repository that needs no token
	tokens        http.HandlerFunc               // instead of granting all

	mu   sync.Mutex
	seen []string
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{scheme: "Bearer", scope: func(string) string { return "" }}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	s.realm = s.URL + "/token"
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	repository, _, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/manifests/")
	scope := s.scope(repository)
	switch {
	case !strings.HasPrefix(req.URL.Path, "/v2/"):
		s.seen = append(s.seen, "token")
		if s.tokens != nil {
			s.tokens(w, req)
			return
		}
		_, _ = fmt.Fprintf(w, `{"token": "%s"}`, strings.Join(req.URL.Query()["scope"], "+"))
	case repository == s.public,
		s.scheme == "Basic" && strings.HasPrefix(req.Header.Get("Authorization"), "Basic "),
		s.scheme == "Bearer" && strings.HasPrefix(req.Header.Get("Authorization"), "Bearer ") && strings.Contains(req.Header.Get("Authorization"), scope):
		s.seen = append(s.seen, "granted")
		w.WriteHeader(http.StatusNotFound)
	default:
		s.seen = append(s.seen, "refused")
		header := fmt.Sprintf(`%s realm="%s",service="s"`, s.scheme, s.realm)
		if scope != "" {
			header += `,scope="` + scope + `"`
		}
		w.Header().Set("WWW-Authenticate", header)
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// read returns what happened at the server when repository was read.
func (s *server) read(t *testing.T, client *registry.Client, repository string) (seen []string, err error) {
	t.Helper()
	r, err := client.Repository(s.Listener.Addr().String() + "/" + repository)
	require.NoError(t, err)
	_, err = r.Manifest(t.Context(), "v1")
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, s.seen = s.seen, nil
	return seen, err
}

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func TestTokensAreAskedForAgainWhereTheRegistrySaysSo(t *testing.T) {
	t.Parallel()
	type steps = []string
	deny := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }
	tests := map[string]struct {
		change func(s *server)
		want   []steps // of the repositories that follow
	}{
		"nothing changed": {func(*server) {}, []steps{{"token", "granted"}}},
		"another token server": {func(s *server) {
			s.realm = s.URL + "/elsewhere"
			s.tokens = func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path != "/elsewhere" {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				_, _ = fmt.Fprint(w, `{"token":"granted"}`)
			}
		}, []steps{{"token", "refused", "token", "granted"}, {"token", "granted"}}},
		"basic": {func(s *server) { s.scheme = "Basic" },
			[]steps{{"token", "refused", "granted"}, {"granted"}}}, // what is stored is sent unasked
		"scopes of its own": {func(s *server) {
			s.scope = func(repository string) string { return "repository:mirror/" + repository + ":pull" }
		}, []steps{{"token", "refused", "token", "granted"}, {"refused", "token", "granted"}, {"refused", "token", "granted"}}},
		"a public repository and wrong credentials": {func(s *server) { s.public, s.tokens = "repository/0", deny },
			[]steps{{"token", "granted"}}},
		"wrong credentials":    {func(s *server) { s.tokens = deny }, []steps{{"token", "refused", "token"}}},
		"a token that is none": {func(s *server) { s.scope = func(string) string { return "nobody" } }, []steps{{"token", "refused", "token", "granted"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			o := machine(t)
			o.AuthFile = registrytest.AuthFile(t, s.Listener.Addr().String(), "ann", "secret")
			client := newClient(t, o)
			seen, err := s.read(t, client, "first")
			require.ErrorIs(t, err, registry.ErrNotFound)
			require.Equal(t, steps{"refused", "token", "granted"}, seen)
			s.set(func() { test.change(s) })
			for i, want := range test.want {
				seen, err := s.read(t, client, fmt.Sprint("repository/", i))
				require.Equal(t, want, seen)
				if want[len(want)-1] == "granted" {
					require.ErrorIs(t, err, registry.ErrNotFound)
				} else {
					requireStatus(t, err, http.StatusUnauthorized)
				}
			}
		})
	}
}

func TestTokenServerThatIsGoneIsForgotten(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"token":"t"}`) }))
	s := newServer(t)
	s.set(func() { s.realm = gone.URL })
	client := newClient(t, machine(t))
	_, err := s.read(t, client, "first")
	require.ErrorIs(t, err, registry.ErrNotFound)
	gone.Close()
	s.set(func() { s.realm = s.URL + "/token" })
	_, err = s.read(t, client, "second")
	require.True(t, factsOf(t, err).Network(), err)
	_, err = s.read(t, client, "second")
	require.ErrorIs(t, err, registry.ErrNotFound, "the registry was asked again where tokens are")
}

func TestTokenThatIsRefusedIsRenewedOnce(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 300))
	client := newClient(t, withCredentials(t, machine(t), r.Host()))
	warm, cold := repositoryOf(t, client, r, "team/warm"), repositoryOf(t, client, r, "team/cold")
	_, err := warm.Manifest(t.Context(), "v1")
	require.ErrorIs(t, err, registry.ErrNotFound)
	r.Fail(registrytest.Match{Kind: registrytest.KindManifest}, registrytest.Fault{
		Times: registrytest.Always, Status: 401, Code: "UNAUTHORIZED",
		Header: http.Header{"Www-Authenticate": {fmt.Sprintf(`Bearer realm="%s/token",service="registrytest",scope="repository:team/x:pull",error="insufficient_scope"`, r.URL())}},
	})
	r.Reset()
	_, err = warm.Manifest(t.Context(), "v1")
	requireStatus(t, err, http.StatusUnauthorized)
	require.NotEmpty(t, factsOf(t, err).Codes, "the registry's own words")
	require.Equal(t, map[string]int{"GET manifest": 2, "GET token": 1}, r.Counts())

	r.Heal()
	r.Fail(registrytest.Match{Kind: registrytest.KindManifest}, registrytest.Fault{
		Times: registrytest.Always, Status: 401, Code: "UNAUTHORIZED",
		Header: http.Header{"Www-Authenticate": {fmt.Sprintf(`Bearer realm="%s/token",service="registrytest",scope="repository:team/cold:pull"`, r.URL())}},
	})
	r.Reset()
	_, err = cold.Manifest(t.Context(), "v1")
	requireStatus(t, err, http.StatusUnauthorized)
	require.NotEmpty(t, factsOf(t, err).Codes)
	require.Equal(t, map[string]int{"GET manifest": 1, "GET token": 1}, r.Counts(), "a token that was just given is not asked for again")
}

func TestOnlyTheRegistryItselfIsForeseen(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 0), registrytest.WithRedirects(), registrytest.WithUploadLocation(registrytest.UploadToStorage))
	client := newClient(t, withCredentials(t, machine(t), r.Host()))
	for _, path := range []string{"team/app", "team/other"} {
		repository := repositoryOf(t, client, r, path)
		r.Reset()
		require.NoError(t, repository.PutBlob(t.Context(), []byte(path)))
		got, err := repository.Blob(t.Context(), digest.FromString(path), 100)
		require.NoError(t, err)
		require.Equal(t, path, string(got))
	}
	require.Equal(t, map[string]int{
		"GET token": 1, "POST upload": 1, "PUT storage": 1, "GET blob": 1, "GET storage": 1,
	}, r.Counts(), "the storage refuses credentials, and is sent everything")

	var away *httptest.Server
	var back string
	away = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, back, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(away.Close)
	back = r.URL() + "/v2/team/app/blobs/" + digest.FromString("team/app").String()
	third := repositoryOf(t, client, r, "team/third")
	_, err := third.Manifest(t.Context(), "v1")
	require.ErrorIs(t, err, registry.ErrNotFound)
	r.Fail(registrytest.Match{Repository: "team/third"}, registrytest.Fault{Times: 2, Status: 307, Header: http.Header{"Location": {away.URL}}})
	r.Reset()
	_, err = third.Blob(t.Context(), digest.FromString("team/app"), 100)
	requireStatus(t, err, http.StatusUnauthorized)
	for _, request := range r.Requests() {
		if request.Repository == "team/app" {
			require.Empty(t, request.Header.Get("Authorization"), "what came by way of another host has no credentials")
		}
	}
	require.NotZero(t, r.Counts()["GET blob"])
}
