package registrytest_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func send(t *testing.T, method, url, body string, header http.Header) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header = header
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func TestStrictness(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	image := r.PushIndex(t, "team/app", "v1", "linux/amd64", "linux/arm64/v8")
	require.Len(t, image.Children, 2)
	url := r.URL() + "/v2/team/app/manifests/v1"

	without := send(t, http.MethodGet, url, "", http.Header{"Accept": {registrytest.DockerList}})
	require.Equal(t, http.StatusNotFound, without, "a type that is not accepted is not found")
	with := send(t, http.MethodGet, url, "", http.Header{"Accept": {registrytest.DockerList + ", " + registrytest.OCIIndex}})
	require.Equal(t, http.StatusOK, with)

	_, child, ok := r.Get("team/app", image.Children[0].Digest)
	require.True(t, ok)
	elsewhere := r.URL() + "/v2/team/other/manifests/v1"
	incomplete := send(t, http.MethodPut, elsewhere, string(child), http.Header{"Content-Type": {registrytest.OCIManifest}})
	require.Equal(t, http.StatusBadRequest, incomplete, "blobs of another repository do not count")
}

func TestFaultsHappenAsOftenAsPlanned(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	r.Fail(registrytest.Match{Kind: registrytest.KindPing}, registrytest.Fault{Times: 2, Status: 503, RetryAfter: "1"})
	for _, want := range []int{503, 503, 200} {
		require.Equal(t, want, send(t, http.MethodGet, r.URL()+"/v2/", "", http.Header{}))
	}
	require.Equal(t, map[string]int{"GET ping": 3}, r.Counts())
	require.Equal(t, 503, r.Requests()[0].Status)
}
