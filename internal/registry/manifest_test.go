package registry_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestManifestReadsEveryKindInOneRequest(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	images := map[string]registrytest.Image{
		"index":  r.PushIndex(t, "team/app", "index", "linux/amd64", "linux/arm64"),
		"list":   r.PushDockerList(t, "team/app", "list", "linux/amd64"),
		"single": r.PushManifest(t, "team/app", "single", "linux/amd64"),
		"docker": r.PushDockerManifest(t, "team/app", "docker", "linux/amd64"),
	}
	for tag, image := range images {
		for _, reference := range []string{tag, image.Digest} {
			r.Reset()
			m, err := repository.Manifest(t.Context(), reference)
			require.NoError(t, err)
			require.Equal(t, registry.Manifest{
				MediaType: image.MediaType,
				Digest:    digest.Digest(image.Digest),
				Body:      image.Body,
			}, m)
			require.Equal(t, map[string]int{"GET manifest": 1}, r.Counts())
		}
	}
}

func TestManifestThatIsNotThere(t *testing.T) {
	t.Parallel()
	bodies := map[string]registrytest.Fault{
		"distribution": {Status: 404, Code: "MANIFEST_UNKNOWN", Message: "manifest unknown"},
		"Harbor":       {Status: 404, Code: "NOT_FOUND", Message: "artifact app:x.sig not found"},
		"Red Hat":      {Status: 404, Code: "UNKNOWN", Message: "Not Found"},
		"Quay":         {Status: 404, Code: "TAG_EXPIRED", Message: "Tag was deleted or has expired"},
		"empty":        {Status: 404},
		"a page":       {Status: 404, Body: "<html>no</html>", ContentType: "text/html"},
	}
	for name, fault := range bodies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository := plain(t)
			r.Fail(registrytest.Match{Kind: registrytest.KindManifest}, fault)
			_, err := repository.Manifest(t.Context(), "sha256-00.sig")
			require.ErrorIs(t, err, registry.ErrNotFound)
			require.Len(t, r.Requests(), 1)
		})
	}
}

func TestManifestIsComparedWithEveryDigestNamed(t *testing.T) {
	t.Parallel()
	other := digest.FromString("other")
	tests := map[string]struct {
		reference string
		header    http.Header
	}{
		"the caller's":   {reference: other.String()},
		"the registry's": {reference: "v1", header: http.Header{"Docker-Content-Digest": {other.String()}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository := plain(t)
			r.Fail(registrytest.Match{}, registrytest.Fault{
				Status: 200, Body: `{}`, ContentType: registrytest.OCIManifest, Header: test.header,
			})
			_, err := repository.Manifest(t.Context(), test.reference)
			var mismatch *registry.MismatchError
			require.ErrorAs(t, err, &mismatch)
			require.Equal(t, other, mismatch.Want)
			require.Equal(t, digest.FromString("{}"), mismatch.Got)
		})
	}
}

func TestManifestTypeOfABodyServedWithoutOne(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		`{"mediaType":"application/vnd.oci.image.index.v1+json"}`: registrytest.OCIIndex,
		`{"schemaVersion":2,"manifests":[]}`:                      registrytest.OCIIndex,
		`{"schemaVersion":2,"config":{}}`:                         registrytest.OCIManifest,
		`{"schemaVersion":1,"signatures":[]}`:                     "application/vnd.docker.distribution.manifest.v1+prettyjws",
		`{"schemaVersion":1}`:                                     "application/vnd.docker.distribution.manifest.v1+json",
	}
	for body, want := range tests {
		r, repository := plain(t)
		r.Fail(registrytest.Match{}, registrytest.Fault{Status: 200, Body: body, ContentType: "application/json; charset=utf-8"})
		m, err := repository.Manifest(t.Context(), "v1")
		require.NoError(t, err)
		require.Equal(t, want, m.MediaType)
	}
}

func TestManifestThatIsTooLarge(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	r.Fail(registrytest.Match{}, registrytest.Fault{
		Status: 200, Body: strings.Repeat(" ", 4<<20+1), ContentType: registrytest.OCIManifest,
	})
	_, err := repository.Manifest(t.Context(), "v1")
	var large *registry.TooLargeError
	require.ErrorAs(t, err, &large)
}

func TestReferencesThatLeadElsewhereAreRefused(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	for _, reference := range []string{"", "../other/manifests/v1", "v1?x=y", "a/b", "sha256:00", ".hidden"} {
		_, err := repository.Manifest(t.Context(), reference)
		require.ErrorContains(t, err, "neither a tag nor a digest")
		require.Error(t, repository.PutManifest(t.Context(), reference, registrytest.OCIManifest, []byte("{}"), nil))
	}
	require.Empty(t, r.Requests())
}

func TestPutManifest(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	body := []byte(`{"schemaVersion":2}`)
	for _, reference := range []string{"sha256-00.sig", digest.FromBytes(body).String()} {
		r.Reset()
		require.NoError(t, repository.PutManifest(t.Context(), reference, registrytest.OCIManifest, body, nil))
		require.Equal(t, map[string]int{"PUT manifest": 1}, r.Counts())
		mediaType, stored, ok := r.Get("team/app", reference)
		require.True(t, ok)
		require.Equal(t, registrytest.OCIManifest, mediaType)
		require.Equal(t, body, stored)
	}

	r.Reset()
	err := repository.PutManifest(t.Context(), digest.FromString("other").String(), registrytest.OCIManifest, body, nil)
	var mismatch *registry.MismatchError
	require.ErrorAs(t, err, &mismatch)
	require.Empty(t, r.Requests(), "wrong bytes are not even sent")
}

func TestPutManifestThatTheRegistryStoredDifferently(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	r.Fail(registrytest.Match{Method: "PUT"}, registrytest.Fault{
		Status: 201, Header: http.Header{"Docker-Content-Digest": {digest.FromString("other").String()}},
	})
	var mismatch *registry.MismatchError
	require.ErrorAs(t, repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil), &mismatch)
}

func TestManifestThatIsTooLargeIsNotSent(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	err := repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, make([]byte, 4<<20+1), nil)
	var large *registry.TooLargeError
	require.ErrorAs(t, err, &large)
	require.Empty(t, r.Requests())
}

func TestManifestThatWasCut(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	r.Fail(registrytest.Match{Method: "PUT"}, registrytest.Fault{CutRequest: true})
	body := []byte(`{"schemaVersion":2,"pad":"` + strings.Repeat("x", 1<<20) + `"}`)
	err := repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, body, nil)
	require.True(t, factsOf(t, err).Network())
	require.True(t, registry.OutcomeUnknown(err))
	_, _, ok := r.Get("team/app", "v1")
	require.False(t, ok)

	r.Put(t, "team/app", "v1", registrytest.OCIManifest, body)
	r.Fail(registrytest.Match{Method: "GET"}, registrytest.Fault{CutAnswer: true, Status: 200, ContentType: registrytest.OCIManifest, Body: string(body[:1000])})
	_, err = repository.Manifest(t.Context(), "v1")
	require.True(t, factsOf(t, err).Network())
}
