package registrytest_test

import (
	"io"
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

func get(t *testing.T, url string, header http.Header) (status int, body string, answered http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, string(content), resp.Header
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithReferrers(true), registrytest.WithReferrersPages(1), registrytest.WithLooseManifests())
	image := r.PushManifest(t, "team/app", "v1", "linux/amd64")
	url := r.URL() + "/v2/team/app/referrers/" + image.Digest
	_, body, header := get(t, url, nil)
	require.JSONEq(t, `{"schemaVersion":2,"mediaType":"`+registrytest.OCIIndex+`","manifests":[]}`, body)
	require.Equal(t, registrytest.OCIIndex, header.Get("Content-Type"))
	for _, artifactType := range []string{"application/a", "application/b"} {
		r.Put(t, "team/app", "", registrytest.OCIManifest, []byte(`{"artifactType":"`+artifactType+`","subject":{"digest":"`+image.Digest+`"}}`))
	}
	_, body, header = get(t, url, nil)
	require.Equal(t, 1, strings.Count(body, `"artifactType":"application/`))
	require.Contains(t, header.Get("Link"), `rel="next"`)

	status, _, _ := get(t, registrytest.New(t).URL()+"/v2/team/app/referrers/"+image.Digest, nil)
	require.Equal(t, http.StatusNotFound, status)
}

func TestFullConfigs(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithFullConfigs())
	layer := r.PutBlob(t, "team/app", []byte("payload"))
	put := func(reference, config string) int {
		d := r.PutBlob(t, "team/app", []byte(config))
		return send(t, http.MethodPut, r.URL()+"/v2/team/app/manifests/"+reference,
			`{"config":{"digest":"`+d+`"},"layers":[{"digest":"`+layer+`"}]}`, http.Header{"Content-Type": {registrytest.OCIManifest}})
	}
	require.Equal(t, 400, put("sha256-00.sig", `{}`))
	require.Equal(t, 400, put("sha256-00.sig", `{"architecture":"","rootfs":{"diff_ids":["x"]}}`))
	require.Equal(t, 400, put("sha256-00.sig", `{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}`))
	require.Equal(t, 201, put("sha256-00.sig", `{"architecture":"","os":"","rootfs":{"diff_ids":["x"]}}`), "as cosign's are")
	require.Equal(t, 201, put("v1", `{}`))
}

func TestHarborErrors(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithHarborErrors())
	status, body, _ := get(t, r.URL()+"/v2/team/app/manifests/sha256-00.sig", nil)
	require.Equal(t, http.StatusNotFound, status)
	require.JSONEq(t, `{"errors":[{"code":"NOT_FOUND","message":"artifact team/app:sha256-00.sig not found"}]}`, body)
}

func TestStorage(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithRedirects())
	d := r.PutBlob(t, "team/app", []byte("payload"))
	_, body, _ := get(t, r.URL()+"/v2/team/app/blobs/"+d, nil)
	require.Equal(t, "payload", body)
	require.Equal(t, map[string]int{"GET blob": 1, "GET storage": 1}, r.Counts())

	status, _, _ := get(t, r.URL()+"/v2/team/app/blobs/"+d, http.Header{"Authorization": {"Basic YTpi"}})
	require.Equal(t, http.StatusBadRequest, status, "one port's credentials are another's on the same host: the storage says so")
}
