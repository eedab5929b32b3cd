package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func withCredentials(t *testing.T, o registry.Options, name string) registry.Options {
	t.Helper()
	o.AuthFile = registrytest.AuthFile(t, name, "ann", "secret")
	return o
}

func repositoryAt(t *testing.T, server *httptest.Server, o registry.Options) *registry.Repository {
	t.Helper()
	repository, err := newClient(t, o).Repository(server.Listener.Addr().String() + "/team/app")
	require.NoError(t, err)
	return repository
}

func TestBasicAuth(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithBasicAuth("ann", "secret"))
	r.PushManifest(t, "team/app", "v1", "linux/amd64")
	client := newClient(t, withCredentials(t, machine(t), r.Host()))
	repository := repositoryOf(t, client, r, "team/app")

	_, err := repository.Manifest(t.Context(), "v1")
	require.NoError(t, err)
	require.Equal(t, map[string]int{"GET manifest": 2}, r.Counts(), "one refused, one with credentials")

	r.Reset()
	require.NoError(t, repository.PutBlob(t.Context(), []byte("payload")))
	require.NoError(t, repositoryOf(t, client, r, "team/other").PutBlob(t.Context(), []byte("payload")))
	require.Equal(t, map[string]int{"POST upload": 2}, r.Counts(), "credentials are sent unasked from then on")
}

func TestBodiesAreSentAgainAfterTheChallenge(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]registrytest.Option{
		"basic": registrytest.WithBasicAuth("ann", "secret"),
		"token": registrytest.WithTokenAuth("ann", "secret", 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, option, registrytest.WithoutSinglePost())
			repository := repositoryOf(t, newClient(t, withCredentials(t, machine(t), r.Host())), r, "team/app")
			require.NoError(t, repository.PutBlob(t.Context(), []byte("payload")))
			r.RevokeTokens()
			require.NoError(t, repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte(`{"schemaVersion":2}`), nil))
			_, body, _ := r.Get("team/app", "v1")
			require.Equal(t, `{"schemaVersion":2}`, string(body))
		})
	}
}

func TestCredentialsOfARepositoryGoBeforeThoseOfItsHost(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithBasicAuth("ann", "secret"))
	o := machine(t)
	o.AuthFile = writeFile(t, "auth.json", fmt.Sprintf(`{"auths": {
		"%[1]s": {"auth": "Ym9iOndyb25n"},
		"%[1]s/team": {"auth": "YW5uOnNlY3JldA=="}}}`, r.Host()))
	client := newClient(t, o)

	_, err := repositoryOf(t, client, r, "team/app").Manifest(t.Context(), "v1")
	require.ErrorIs(t, err, registry.ErrNotFound)
	_, err = repositoryOf(t, client, r, "else/app").Manifest(t.Context(), "v1")
	requireStatus(t, err, http.StatusUnauthorized)
	_, err = repositoryOf(t, client, r, "team/second").Manifest(t.Context(), "v1")
	require.ErrorIs(t, err, registry.ErrNotFound, "one user's refusal is not another's")
}

func TestCredentialHelpers(t *testing.T) {
	// Helpers are found by PATH, which is the process's.
	bin := t.TempDir()
	helper := "#!/bin/sh\ncat >/dev/null\n%s\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-good"),
		fmt.Appendf(nil, helper, `echo '{"ServerURL":"x","Username":"ann","Secret":"secret"}'`), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-bad"),
		fmt.Appendf(nil, helper, `echo 'vault is sealed'; exit 1`), 0o700))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))

	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 0))
	o := machine(t)
	o.AuthFile = writeFile(t, "auth.json", fmt.Sprintf(`{"credHelpers": {"%s": "good"}}`, r.Host()))
	require.NoError(t, repositoryOf(t, newClient(t, o), r, "team/app").PutBlob(t.Context(), []byte("x")))

	o.AuthFile = writeFile(t, "auth.json", fmt.Sprintf(`{"credHelpers": {"%s": "bad"}}`, r.Host()))
	err := repositoryOf(t, newClient(t, o), r, "team/app").PutBlob(t.Context(), []byte("x"))
	var unreadable *registry.CredentialError
	require.ErrorAs(t, err, &unreadable)
	require.ErrorContains(t, err, "vault is sealed")
}

func TestIdentityTokenIsExchanged(t *testing.T) {
	t.Parallel()
	var form atomic.Value
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/token":
			_ = req.ParseForm()
			form.Store(req.PostForm.Get("grant_type") + " " + req.PostForm.Get("refresh_token"))
			_, _ = fmt.Fprint(w, `{"access_token": "granted"}`)
		case req.Header.Get("Authorization") != "Bearer granted":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusCreated)
		}
	}))
	t.Cleanup(server.Close)
	o := machine(t)
	o.AuthFile = writeFile(t, "auth.json", fmt.Sprintf(
		`{"auths": {"%s": {"auth": "YW5uOg==", "identitytoken": "lasting"}}}`, server.Listener.Addr()))
	require.NoError(t, repositoryAt(t, server, o).PutBlob(t.Context(), []byte("x")))
	require.Equal(t, "refresh_token lasting", form.Load())
}

func TestOneTokenServesAllUsersOfARepository(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 300))
	r.PushManifest(t, "team/app", "v1", "linux/amd64")
	client := newClient(t, withCredentials(t, machine(t), r.Host()))
	use := func() {
		var all sync.WaitGroup
		for range 20 {
			repository := repositoryOf(t, client, r, "team/app")
			all.Go(func() {
				if _, err := repository.Manifest(t.Context(), "v1"); err != nil {
					t.Error(err)
				}
				if err := repository.PutBlob(t.Context(), []byte("payload")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	use()
	require.Equal(t, 1, r.Counts()["GET token"], "for reading and writing")

	r.RevokeTokens()
	r.Reset()
	use()
	require.Equal(t, 1, r.Counts()["GET token"], "one more after all are refused")
}

func TestTokenIsRenewedBeforeItExpires(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 100))
	r.PushManifest(t, "team/app", "v1", "linux/amd64")
	client := newClient(t, withCredentials(t, machine(t), r.Host()))
	repository := repositoryOf(t, client, r, "team/app")
	read := func() map[string]int {
		r.Reset()
		_, err := repository.Manifest(t.Context(), "v1")
		require.NoError(t, err)
		return r.Counts()
	}
	read()
	registry.AgeTokens(repository, 79*time.Second)
	require.Equal(t, map[string]int{"GET manifest": 1}, read())
	registry.AgeTokens(repository, 2*time.Second)
	require.Equal(t, map[string]int{"GET token": 1, "GET manifest": 1}, read(), "nothing is refused on the way")

	registry.AgeTokens(repository, 81*time.Second)
	r.Fail(registrytest.Match{Kind: registrytest.KindToken}, registrytest.Fault{Status: 403})
	require.Equal(t, map[string]int{"GET token": 1, "GET manifest": 1}, read(), "the old one is still good")
}

func TestCancellingOneWaiterForATokenFailsNoOther(t *testing.T) {
	t.Parallel()
	for _, warm := range []bool{false, true} {
		arrived, release := make(chan struct{}, 2), make(chan struct{}, 2)
		var server *httptest.Server
		server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.URL.Path == "/token":
				arrived <- struct{}{}
				<-release
				_, _ = fmt.Fprint(w, `{"token": "granted"}`)
			case req.Header.Get("Authorization") == "":
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			default:
				w.WriteHeader(http.StatusCreated)
			}
		}))
		t.Cleanup(server.Close)
		client := newClient(t, machine(t))
		if warm { // how to get a token is known, the token is not
			release <- struct{}{}
			other, err := client.Repository(server.Listener.Addr().String() + "/team/other")
			require.NoError(t, err)
			require.NoError(t, other.PutBlob(t.Context(), []byte("x")))
			<-arrived
		}
		repository, err := client.Repository(server.Listener.Addr().String() + "/team/app")
		require.NoError(t, err)

		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- repository.PutBlob(ctx, []byte("x")) }()
		<-arrived
		go func() { second <- repository.PutBlob(t.Context(), []byte("y")) }()
		registry.AwaitWaiting(t, repository, 2)
		cancel(errLost)
		err = <-first
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, errLost, "the reason is told")
		require.False(t, registry.OutcomeUnknown(err), "it had been refused, not written")
		release <- struct{}{}
		require.NoError(t, <-second)
	}
}

func TestRefusalsOfTheTokenServer(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault  registrytest.Fault
		status int
		after  time.Duration
	}{
		"wrong user":     {registrytest.Fault{Status: 401, Code: "UNAUTHORIZED"}, 401, 0},
		"denied":         {registrytest.Fault{Status: 403, Code: "DENIED"}, 403, 0},
		"throttled":      {registrytest.Fault{Status: 429, RetryAfter: "70"}, 429, 70 * time.Second},
		"not found":      {registrytest.Fault{Status: 404}, 401, 0},
		"broken":         {registrytest.Fault{Status: 500}, 500, 0},
		"down for a bit": {registrytest.Fault{Status: 503, RetryAfter: "90"}, 503, 90 * time.Second},
		"not a token":    {registrytest.Fault{Status: 200, Body: "<html>"}, 200, 0},
		"an empty one":   {registrytest.Fault{Status: 200, Body: `{"token":""}`}, 200, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 0))
			repository := repositoryOf(t, newClient(t, withCredentials(t, machine(t), r.Host())), r, "team/app")
			r.Fail(registrytest.Match{Kind: registrytest.KindToken}, test.fault)
			_, err := repository.Manifest(t.Context(), "v1")
			requireStatus(t, err, test.status)
			failed := factsOf(t, err)
			require.Equal(t, test.after, failed.RetryAfter)
			require.NotErrorIs(t, err, registry.ErrNotFound)
			require.False(t, failed.Network())
			require.False(t, registry.OutcomeUnknown(err))
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestWithoutCredentialsWhereTheyAreWanted(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]registrytest.Option{
		"basic": registrytest.WithBasicAuth("ann", "secret"),
		"token": registrytest.WithTokenAuth("ann", "secret", 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, repository := plain(t, option)
			_, err := repository.Manifest(t.Context(), "v1")
			requireStatus(t, err, http.StatusUnauthorized)
		})
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		option registrytest.Option
		stored bool
		status int // 0: passes
		counts map[string]int
	}{
		"open":                 {registrytest.WithLooseManifests(), false, 0, map[string]int{"GET ping": 1}},
		"open, credentials":    {registrytest.WithLooseManifests(), true, 0, map[string]int{"GET ping": 1}},
		"basic":                {registrytest.WithBasicAuth("ann", "secret"), true, 0, map[string]int{"GET ping": 2}},
		"basic, wrong":         {registrytest.WithBasicAuth("ann", "other"), true, 401, map[string]int{"GET ping": 2}},
		"basic, none":          {registrytest.WithBasicAuth("ann", "secret"), false, 401, map[string]int{"GET ping": 1}},
		"token":                {registrytest.WithTokenAuth("ann", "secret", 0), true, 0, map[string]int{"GET ping": 2, "GET token": 1}},
		"token, wrong":         {registrytest.WithTokenAuth("ann", "other", 0), true, 401, map[string]int{"GET ping": 1, "GET token": 1}},
		"token, not even user": {registrytest.WithTokenAuth("ann", "secret", 0), false, 401, map[string]int{"GET ping": 1, "GET token": 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, test.option)
			o := machine(t)
			if test.stored {
				o = withCredentials(t, o, r.Host())
			}
			err := newClient(t, o).Login(t.Context(), r.Host())
			if test.status == 0 {
				require.NoError(t, err)
			} else {
				requireStatus(t, err, test.status)
			}
			require.Equal(t, test.counts, r.Counts())
		})
	}
	require.ErrorContains(t, newClient(t, machine(t)).Login(t.Context(), "not a host"), "not a host name")
}
