package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// referrerTo is a manifest that refers to subject.
func referrerTo(t *testing.T, subject registrytest.Image, artifactType string) []byte {
	t.Helper()
	body, err := json.Marshal(oci.Manifest{
		MediaType:    registrytest.OCIManifest,
		ArtifactType: artifactType,
		Config:       oci.DescriptorEmptyJSON,
		Subject:      &oci.Descriptor{MediaType: subject.MediaType, Digest: digest.Digest(subject.Digest), Size: int64(len(subject.Body))},
		Annotations:  map[string]string{"of": artifactType},
	})
	require.NoError(t, err)
	return body
}

// withImage is a registry that holds an image, and its repository.
func withImage(t *testing.T, options ...registrytest.Option) (*registrytest.Registry, *registry.Repository, registrytest.Image) {
	t.Helper()
	r, repository := plain(t, append(options, registrytest.WithLooseManifests())...)
	return r, repository, r.PushManifest(t, "team/app", "v1", "linux/amd64")
}

func TestHas(t *testing.T) {
	t.Parallel()
	r, repository, image := withImage(t)
	has, err := repository.Has(t.Context(), digest.Digest(image.Digest))
	require.NoError(t, err)
	require.True(t, has)
	has, err = repository.Has(t.Context(), digest.FromString("absent"))
	require.NoError(t, err)
	require.False(t, has)
	require.Equal(t, map[string]int{"HEAD manifest": 2}, r.Counts())

	_, err = repository.Has(t.Context(), "v1")
	require.Error(t, err)
	r.Fail(registrytest.Match{}, registrytest.Fault{Status: 403})
	_, err = repository.Has(t.Context(), digest.Digest(image.Digest))
	requireStatus(t, err, http.StatusForbidden)

	for _, option := range []registrytest.Option{registrytest.WithWrongContentDigest(), registrytest.WithoutContentDigest()} {
		_, repository, image := withImage(t, option)
		_, err := repository.Has(t.Context(), digest.Digest(image.Digest))
		_, whole := repository.Manifest(t.Context(), "v1")
		written := repository.PutManifest(t.Context(), "v2", image.MediaType, image.Body, nil)
		if err == nil {
			require.NoError(t, whole)
			require.NoError(t, written)
			continue
		}
		for _, err := range []error{err, whole, written} {
			var mismatch *registry.MismatchError
			require.ErrorAs(t, err, &mismatch)
		}
	}
}

func TestDeleteManifest(t *testing.T) {
	t.Parallel()
	r, repository, image := withImage(t)
	require.NoError(t, repository.DeleteManifest(t.Context(), digest.Digest(image.Digest)))
	_, _, ok := r.Get("team/app", image.Digest)
	require.False(t, ok)
	require.Error(t, repository.DeleteManifest(t.Context(), "v1"))

	_, repository, image = withImage(t, registrytest.WithoutDelete())
	requireStatus(t, repository.DeleteManifest(t.Context(), digest.Digest(image.Digest)), http.StatusMethodNotAllowed)
}

func TestRemovingIsAskedForApart(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 0))
	image := r.PushManifest(t, "team/app", "v1", "linux/amd64")
	repository := repositoryOf(t, newClient(t, withCredentials(t, machine(t), r.Host())), r, "team/app")
	_, err := repository.Manifest(t.Context(), "v1")
	require.NoError(t, err)
	r.Reset()
	require.NoError(t, repository.DeleteManifest(t.Context(), digest.Digest(image.Digest)))
	require.Equal(t, map[string]int{"GET token": 1, "DELETE manifest": 1}, r.Counts())
	require.Contains(t, r.Requests()[0].Query, "delete")
}

func TestReferrersAreListedFromAllPages(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]registrytest.Option{
		"one page": {registrytest.WithReferrers(true)},
		"pages":    {registrytest.WithReferrers(true), registrytest.WithReferrersPages(2)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository, image := withImage(t, options...)
			found, err := repository.Referrers(t.Context(), digest.Digest(image.Digest))
			require.NoError(t, err)
			require.Empty(t, found)

			want := map[digest.Digest]string{}
			for i := range 5 {
				body := referrerTo(t, image, fmt.Sprintf("application/x-%d", i))
				d := digest.FromBytes(body)
				require.NoError(t, repository.PutManifest(t.Context(), d.String(), registrytest.OCIManifest, body, nil))
				want[d] = fmt.Sprintf("application/x-%d", i)
			}
			r.Reset()
			found, err = repository.Referrers(t.Context(), digest.Digest(image.Digest))
			require.NoError(t, err)
			got := map[digest.Digest]string{}
			for _, entry := range found {
				got[entry.Digest] = entry.ArtifactType
				require.Equal(t, entry.ArtifactType, entry.Annotations["of"])
			}
			require.Equal(t, want, got)
			for _, request := range r.Requests() {
				require.NotContains(t, request.Query, "artifactType")
			}
		})
	}
}

func TestListsOfReferrersThatAreRefused(t *testing.T) {
	t.Parallel()
	index := func(link, body string) registrytest.Fault {
		return registrytest.Fault{
			Times: registrytest.Always, Status: 200, ContentType: registrytest.OCIIndex, Body: body, Header: http.Header{"Link": {link}},
		}
	}
	tests := map[string]struct {
		fault registrytest.Fault
		want  string
	}{
		"no list":        {index("", "[1]"), "cannot be read"},
		"cut":            {index("", `{"manifests":[`), "cannot be read"},
		"another host":   {index(`<https://elsewhere.example.com/v2/?sig=hidden>; rel="next"`, "{}"), "is not the registry's"},
		"no URL":         {index(`<:%/>; rel="next"`, "{}"), "not a URL"},
		"an endless one": {index(`<?n=1>; rel="next"`, `{"manifests":[]}`), "more than 256 pages"},
		"a large one":    {index("", strings.Repeat(" ", 4<<20+1)), "larger than 4194304 bytes"},
		"large in all":   {index(`<?n=1>; rel="next"`, `{"pad":"`+strings.Repeat("x", 1<<20)+`"}`), "larger than 4194304 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository, image := withImage(t, registrytest.WithReferrers(true))
			r.Fail(registrytest.Match{Kind: registrytest.KindReferrers}, test.fault)
			_, err := repository.Referrers(t.Context(), digest.Digest(image.Digest))
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "hidden")
			require.NotErrorIs(t, err, registry.ErrNoReferrersAPI)
		})
	}

	r, repository, image := withImage(t)
	r.Fail(registrytest.Match{}, index("", `{"manifests":[{"digest":"../../v1"},{}]}`))
	found, err := repository.Referrers(t.Context(), digest.Digest(image.Digest))
	require.NoError(t, err)
	require.Empty(t, found, "what has no digest leads nowhere")
	_, err = repository.Referrers(t.Context(), "v1")
	require.Error(t, err)
}

func TestReferrersAPIIsAskedForOnceAHost(t *testing.T) {
	t.Parallel()
	page := registrytest.Fault{Times: registrytest.Always, Status: 200, ContentType: "text/html", Body: "<html>"}
	tests := map[string]struct {
		options []registrytest.Option
		fault   *registrytest.Fault
		want    bool
	}{
		"with":                {[]registrytest.Option{registrytest.WithReferrers(false)}, nil, true},
		"404":                 {nil, nil, false},
		"400":                 {nil, &registrytest.Fault{Status: 400, Code: "UNSUPPORTED"}, false},
		"405":                 {nil, &registrytest.Fault{Status: 405}, false},
		"406":                 {nil, &registrytest.Fault{Status: 406}, false},
		"501":                 {nil, &registrytest.Fault{Status: 501}, false},
		"a page":              {nil, &page, false},
		"a type of their own": {nil, &registrytest.Fault{Status: 200, ContentType: "application/json", Body: "{}"}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, first, image := withImage(t, test.options...)
			if test.fault != nil {
				r.Fail(registrytest.Match{Kind: registrytest.KindReferrers}, *test.fault)
			}
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					has, err := first.HasReferrersAPI(t.Context(), digest.Digest(image.Digest))
					if err != nil || has != test.want {
						t.Error(has, err)
					}
				})
			}
			all.Wait()
			require.Equal(t, map[string]int{"GET referrers": 1}, r.Counts())
			if !test.want {
				_, err := first.Referrers(t.Context(), digest.Digest(image.Digest))
				require.ErrorIs(t, err, registry.ErrNoReferrersAPI)
				require.NotErrorIs(t, err, registry.ErrNotFound, "it says nothing of the image")
				require.Len(t, r.Requests(), 1)
			}
		})
	}
}

func TestFailingToAskForTheReferrersAPIIsNotRemembered(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403, 500} {
		r, repository, image := withImage(t, registrytest.WithReferrers(false))
		r.Fail(registrytest.Match{Kind: registrytest.KindReferrers}, registrytest.Fault{Status: status})
		_, err := repository.HasReferrersAPI(t.Context(), digest.Digest(image.Digest))
		requireStatus(t, err, status)
		has, err := repository.HasReferrersAPI(t.Context(), digest.Digest(image.Digest))
		require.NoError(t, err)
		require.True(t, has)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errLost)
	_, repository, image := withImage(t)
	_, err := repository.HasReferrersAPI(ctx, digest.Digest(image.Digest))
	require.ErrorIs(t, err, errLost)
	require.ErrorContains(t, err, repository.Name())
}

func TestRefusalForOneRepositoryIsNoOthers(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/v2/secret/") {
			arrived <- struct{}{}
			<-release
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", registrytest.OCIIndex)
		_, _ = w.Write([]byte(`{"manifests":[]}`))
	}))
	t.Cleanup(server.Close)
	client := newClient(t, machine(t))
	secret, err := client.Repository(server.Listener.Addr().String() + "/secret/app")
	require.NoError(t, err)
	open, err := client.Repository(server.Listener.Addr().String() + "/team/app")
	require.NoError(t, err)
	first, second := make(chan error, 1), make(chan error, 1)
	ask := func(repository *registry.Repository, done chan error) {
		has, err := repository.HasReferrersAPI(t.Context(), digest.FromString("x"))
		if err == nil && !has {
			err = registry.ErrNoReferrersAPI
		}
		done <- err
	}
	go ask(secret, first)
	<-arrived
	go ask(open, second)
	registry.AwaitWaiting(t, secret, 2)
	close(release)
	requireStatus(t, <-first, http.StatusForbidden)
	require.NoError(t, <-second)
}

func TestReferrersAPIIsLearnedFromContradictions(t *testing.T) {
	t.Parallel()
	r, repository, image := withImage(t)
	subject := digest.Digest(image.Digest)
	has, err := repository.HasReferrersAPI(t.Context(), subject)
	require.NoError(t, err)
	require.False(t, has)
	require.NoError(t, repository.PutManifest(t.Context(), "v2", registrytest.OCIManifest, image.Body, nil))

	put := func(body []byte) {
		r.Fail(registrytest.Match{Method: "PUT"}, registrytest.Fault{Status: 201, Header: http.Header{"Oci-Subject": {image.Digest}}})
		require.NoError(t, repository.PutManifest(t.Context(), "v2", registrytest.OCIManifest, body, nil))
		has, err = repository.HasReferrersAPI(t.Context(), subject)
		require.NoError(t, err)
	}
	put(image.Body)
	require.False(t, has, "a manifest that refers to nothing proves nothing")
	put(referrerTo(t, image, "application/x"))
	require.True(t, has, "the answer to a referrer does")

	r.Reset()
	_, err = repository.Referrers(t.Context(), subject)
	require.ErrorIs(t, err, registry.ErrNoReferrersAPI, "it has none any more")
	has, err = repository.HasReferrersAPI(t.Context(), subject)
	require.NoError(t, err)
	require.False(t, has)
	require.Equal(t, map[string]int{"GET referrers": 2}, r.Counts(), "what was known is asked again before it is given up")
}

func TestSharedConfigIsRefusedByAHost(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	client := newClient(t, machine(t))
	require.False(t, repositoryOf(t, client, r, "team/app").RefusesSharedConfig())
	repositoryOf(t, client, r, "team/app").NoteSharedConfigRefused()
	require.True(t, repositoryOf(t, client, r, "team/other").RefusesSharedConfig())
	require.False(t, repositoryOf(t, client, registrytest.New(t), "team/app").RefusesSharedConfig())
}
