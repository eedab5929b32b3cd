package registry_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestBlob(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	content := []byte("payload")
	d := digest.Digest(r.PutBlob(t, "team/app", content))

	got, err := repository.Blob(t.Context(), d, int64(len(content)))
	require.NoError(t, err)
	require.Equal(t, content, got)
	require.Equal(t, map[string]int{"GET blob": 1}, r.Counts())

	_, err = repository.Blob(t.Context(), d, int64(len(content))-1)
	var large *registry.TooLargeError
	require.ErrorAs(t, err, &large)

	r.Fail(registrytest.Match{Kind: registrytest.KindBlob}, registrytest.Fault{Status: 200, Body: "forged"})
	_, err = repository.Blob(t.Context(), d, 100)
	var mismatch *registry.MismatchError
	require.ErrorAs(t, err, &mismatch)

	_, err = repository.Blob(t.Context(), digest.FromString("absent"), 100)
	require.ErrorIs(t, err, registry.ErrNotFound)
}

func TestPutBlobBySinglePost(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	for _, content := range []string{"payload", ""} {
		r.Reset()
		require.NoError(t, repository.PutBlob(t.Context(), []byte(content)))
		require.Equal(t, map[string]int{"POST upload": 1}, r.Counts())
		stored, ok := r.Blob("team/app", digest.FromString(content).String())
		require.True(t, ok)
		require.Equal(t, content, string(stored))
	}
}

func TestPutBlobWhereASinglePostOnlyStartsAnUpload(t *testing.T) {
	t.Parallel()
	r, repository := plain(t, registrytest.WithoutSinglePost())
	for i, content := range []string{"first", "second"} {
		r.Reset()
		require.NoError(t, repository.PutBlob(t.Context(), []byte(content)))
		require.Equal(t, map[string]int{"POST upload": 1, "PUT upload": 1}, r.Counts())
		post := r.Requests()[0]
		require.Equal(t, i == 0, post.Query != "", "a body is posted in vain only once")
		_, ok := r.Blob("team/app", digest.FromString(content).String())
		require.True(t, ok)
	}
}

func TestPutBlobWhereASinglePostIsRefused(t *testing.T) {
	t.Parallel()
	r, repository := plain(t, registrytest.WithoutSinglePost())
	r.Fail(registrytest.Match{Method: "POST"}, registrytest.Fault{Status: 405, Code: "UNSUPPORTED"})
	require.NoError(t, repository.PutBlob(t.Context(), []byte("payload")))
	require.Equal(t, map[string]int{"POST upload": 2, "PUT upload": 1}, r.Counts())

	r.Reset()
	require.NoError(t, repository.PutBlob(t.Context(), []byte("more")))
	require.Equal(t, map[string]int{"POST upload": 1, "PUT upload": 1}, r.Counts())
}

func TestUploadLocations(t *testing.T) {
	t.Parallel()
	d := digest.FromString("payload").String()
	tests := map[string]struct {
		location string // after the registry's root, or whole
		want     string // path and query that are PUT
	}{
		"relative with a query":  {"/up/1?state=a%2Fb&x", "/up/1?state=a%2Fb&x&digest=" + "sha256%3A" + d[7:]},
		"relative without":       {"/up/1", "/up/1?digest=sha256%3A" + d[7:]},
		"relative to the upload": {"1", "/v2/team/app/blobs/uploads/1?digest=sha256%3A" + d[7:]},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var put string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method == http.MethodPut {
					put = req.URL.RequestURI()
					w.WriteHeader(http.StatusCreated)
					return
				}
				w.Header().Set("Location", test.location)
				w.WriteHeader(http.StatusAccepted)
			}))
			t.Cleanup(server.Close)
			repository := repositoryAt(t, server, machine(t))
			require.NoError(t, repository.PutBlob(t.Context(), []byte("payload")))
			require.Equal(t, test.want, put)
		})
	}
}

func TestUploadsGoOnWhereverTheRegistrySays(t *testing.T) {
	t.Parallel()
	for form, kind := range map[registrytest.UploadLocation]string{
		registrytest.UploadRelative:  "PUT upload",
		registrytest.UploadWithState: "PUT upload",
		registrytest.UploadAbsolute:  "PUT upload",
		registrytest.UploadToStorage: "PUT storage",
	} {
		for _, option := range []registrytest.Option{registrytest.WithTLS(), registrytest.WithoutSinglePost()} {
			r := registrytest.New(t, registrytest.WithUploadLocation(form), registrytest.WithBasicAuth("ann", "secret"), option)
			repository := repositoryOf(t, newClient(t, withCredentials(t, machine(t), r.Host())), r, "team/app")
			require.NoError(t, repository.PutBlob(t.Context(), []byte("payload")))
			require.Equal(t, map[string]int{"POST upload": 2, kind: 1}, r.Counts())
			stored, ok := r.Blob("team/app", digest.FromString("payload").String())
			require.True(t, ok)
			require.Equal(t, "payload", string(stored))
		}
	}
}

func TestUploadToAnotherHostCarriesNoCredentials(t *testing.T) {
	t.Parallel()
	var authorization []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		authorization = append(authorization, req.Header.Get("Authorization"))
		w.Header().Set("WWW-Authenticate", `Basic realm="give"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(elsewhere.Close)
	r := registrytest.New(t, registrytest.WithBasicAuth("ann", "secret"))
	repository := repositoryOf(t, newClient(t, withCredentials(t, machine(t), r.Host())), r, "team/app")
	_, err := repository.Manifest(t.Context(), "warm-up") // the credentials are known to be wanted
	require.ErrorIs(t, err, registry.ErrNotFound)

	r.Fail(registrytest.Match{Kind: registrytest.KindUpload}, registrytest.Fault{
		Status: 202, Header: http.Header{"Location": {elsewhere.URL + "/up?sig=hidden"}},
	})
	err = repository.PutBlob(t.Context(), []byte("payload"))
	var failed *registry.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, http.StatusUnauthorized, failed.Status)
	require.NotContains(t, err.Error(), "hidden")
	require.Equal(t, []string{""}, authorization)
}

func TestUploadLocationsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, location := range []string{"", "://", "ftp://host/up", "mailto:x"} {
		r, repository := plain(t)
		r.Fail(registrytest.Match{Kind: registrytest.KindUpload}, registrytest.Fault{
			Status: 202, Header: http.Header{"Location": {location}},
		})
		require.ErrorContains(t, repository.PutBlob(t.Context(), []byte("payload")), "upload location")
		require.Len(t, r.Requests(), 1)
	}

	secure := registrytest.New(t, registrytest.WithTLS())
	o := machine(t)
	o.TLSVerify, o.CertsDir = nil, secure.CertsDir(t)
	secure.Fail(registrytest.Match{Kind: registrytest.KindUpload}, registrytest.Fault{
		Status: 202, Header: http.Header{"Location": {"http://" + secure.Host() + "/up"}},
	})
	repository := repositoryOf(t, newClient(t, o), secure, "team/app")
	require.ErrorContains(t, repository.PutBlob(t.Context(), []byte("payload")), "plain http")
}

func TestConstantIsWrittenOnce(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	client := newClient(t, machine(t))
	var all sync.WaitGroup
	for range 20 {
		repository := repositoryOf(t, client, r, "team/app")
		all.Go(func() {
			if err := repository.PutConstant(t.Context(), []byte("{}")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, map[string]int{"POST upload": 1}, r.Counts())

	require.NoError(t, repositoryOf(t, client, r, "team/other").PutConstant(t.Context(), []byte("{}")))
	require.Equal(t, map[string]int{"POST upload": 2}, r.Counts(), "each repository has its own")
}

func TestConstantIsWrittenAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	r.Fail(registrytest.Match{Kind: registrytest.KindUpload}, registrytest.Fault{Status: 500})
	require.Error(t, repository.PutConstant(t.Context(), []byte("{}")))
	require.NoError(t, repository.PutConstant(t.Context(), []byte("{}")))
	require.NoError(t, repository.PutConstant(t.Context(), []byte("{}")))
	require.Equal(t, map[string]int{"POST upload": 2}, r.Counts())
}

func TestConstantThatIsKnownToBeThere(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	repository.Holds(digest.FromString("{}"))
	require.NoError(t, repository.PutConstant(t.Context(), []byte("{}")))
	require.Empty(t, r.Requests())
}

func TestConstantOutlivesTheCallerWhoBeganIt(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(server.Close)
	repository := repositoryAt(t, server, machine(t))

	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- repository.PutConstant(ctx, []byte("{}")) }()
	<-arrived
	go func() { second <- repository.PutConstant(t.Context(), []byte("{}")) }()
	registry.AwaitWaiting(t, repository, 2)
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	close(release)
	require.NoError(t, <-second)
}
