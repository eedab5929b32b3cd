package registry_test

import (
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// Quay answers 400 where it does not know the subject, as with a child that a
// mirror has left out of an index.
func TestAnUnknownSubjectSaysNothingOfTheHost(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]registrytest.Fault{
		"Quay":   {Times: registrytest.Always, Status: http.StatusBadRequest, Code: "MANIFEST_INVALID"},
		"Harbor": {Times: registrytest.Always, Status: http.StatusNotFound, Code: "NOT_FOUND"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository, image := withImage(t, registrytest.WithReferrers(false))
			absent, subject := digest.FromString("absent"), digest.Digest(image.Digest)
			r.Fail(registrytest.Match{Kind: registrytest.KindReferrers, Reference: absent.String()}, fault)
			known := func() {
				has, err := repository.HasReferrersAPI(t.Context(), subject)
				require.NoError(t, err)
				require.True(t, has)
			}
			if name == "Quay" { // whose answer can be told from that of a host without the API
				has, err := repository.HasReferrersAPI(t.Context(), absent)
				require.NoError(t, err)
				require.False(t, has, "nothing refers to it, whichever it is")
			}
			known()
			for range 3 {
				found, err := repository.Referrers(t.Context(), absent)
				require.NoError(t, err)
				require.Empty(t, found)
				known()
			}
		})
	}
}

// A host may lead some of its paths to another registry.
func TestARepositoryMayDifferFromItsHost(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithReferrers(true), registrytest.WithLooseManifests())
	r.Fail(registrytest.Match{Kind: registrytest.KindReferrers, Repository: "old/app"}, registrytest.Fault{Times: registrytest.Always, Status: http.StatusNotFound, ContentType: "text/plain", Body: "404 page not found"})
	client := newClient(t, machine(t))
	newer, older := repositoryOf(t, client, r, "new/app"), repositoryOf(t, client, r, "old/app")
	has := func(repository *registry.Repository, image registrytest.Image) bool {
		has, err := repository.HasReferrersAPI(t.Context(), digest.Digest(image.Digest))
		require.NoError(t, err)
		return has
	}
	put := func(repository *registry.Repository, image registrytest.Image) {
		body := referrerTo(t, image, "application/x")
		require.NoError(t, repository.PutManifest(t.Context(), digest.FromBytes(body).String(), registrytest.OCIManifest, body, nil))
	}
	one, two := r.PushManifest(t, "new/app", "v1", "linux/amd64"), r.PushManifest(t, "old/app", "v1", "linux/amd64")
	put(newer, one)
	require.True(t, has(newer, one))
	require.True(t, has(older, two), "as its host, as far as is known")
	r.Fail(registrytest.Match{Method: http.MethodPut, Repository: "old/app"}, registrytest.Fault{Applied: true, Status: http.StatusCreated}) // without OCI-Subject
	put(older, two)
	require.False(t, has(older, two), "an answer without the header has it asked")
	require.True(t, has(newer, one), "which is nobody else's business")

	r.Reset()
	require.False(t, has(older, two))
	require.True(t, has(newer, one))
	require.Empty(t, r.Requests(), "both are remembered")
	r.Heal()
	put(older, two)
	require.True(t, has(older, two), "as the header says")
}
