package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// One list with every shape of image: what can be signed is, what is no image
// is passed over, what is not there fails.
func TestShapesOfImages(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access, repo := m.w, m.w.registry.Access(), repository(t)
	index, err := w.pusher.Index(t.Context(), repo+"/index:1.0", "linux/amd64", "linux/arm64", "linux/s390x")
	require.NoError(t, err)
	list, err := w.pusher.List(t.Context(), repo+"/list:1.0", "linux/amd64", "linux/arm64/v8", "windows/amd64")
	require.NoError(t, err)
	single, err := w.pusher.Single(t.Context(), repo+"/single:1.0", "linux/arm64")
	require.NoError(t, err)
	docker, err := w.pusher.DockerSingle(t.Context(), repo+"/docker:1.0", "linux/amd64")
	require.NoError(t, err)
	foreign, err := w.pusher.Index(t.Context(), repo+"/foreign:1.0", "windows/amd64", "linux/s390x")
	require.NoError(t, err)
	foreignSingle, err := w.pusher.Single(t.Context(), repo+"/foreign-single:1.0", "linux/ppc64le")
	require.NoError(t, err)
	chart, err := w.pusher.Chart(t.Context(), repo+"/chart:1.0")
	require.NoError(t, err)
	pinned, err := w.pusher.Single(t.Context(), repo+"/pinned:1.0", "linux/amd64")
	require.NoError(t, err)
	signed, err := w.pusher.Single(t.Context(), repo+"/signed:1.0", "linux/amd64")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), access, signed.ByDigest(), w.key))
	unknown := w.registry.Host() + "/" + repo + "/index:unknown"

	r := m.submit(m.list(index.Reference, list.Reference, single.Reference, docker.Reference, foreign.Reference,
		foreignSingle.Reference, chart.Reference, unknown, signed.Signature(signed.Digest), pinned.ByDigest()))

	require.Equal(t, 1, r.code, "one image is not there: %s", r)
	require.Equal(t, []string{unknown}, m.failedLines())
	require.Equal(t, "not-found", m.failures()[0].Class)
	requireSigned(t, access, w.key.Public,
		index.Reference, index.ByDigest(), index.Child("linux/amd64"), index.Child("linux/arm64"),
		list.Reference, list.ByDigest(), list.Child("linux/amd64"), list.Child("linux/arm64/v8"),
		single.Reference, single.ByDigest(), docker.Reference, docker.ByDigest(), pinned.ByDigest())
	requireRejected(t, access, w.key.Public, index.Child("linux/s390x"))
	requireUnsigned(t, w.pusher, index, digestOf(index.Child("linux/s390x")))
	requireUnsigned(t, w.pusher, list, digestOf(list.Child("windows/amd64")))
	requireUnsigned(t, w.pusher, foreign, foreign.Digest, foreign.Children[0].Digest, foreign.Children[1].Digest)
	requireUnsigned(t, w.pusher, foreignSingle, foreignSingle.Digest)
	requireUnsigned(t, w.pusher, chart, chart.Digest)
	requireSignatures(t, 1, w.pusher, signed, signed.Digest) // cosign's own, and none on it
}

func TestPlatformsAreChosenByFlags(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w := m.w
	index, err := w.pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/s390x", "windows/amd64")
	require.NoError(t, err)

	r := m.submit(m.list(index.Reference), "--arch", "s390x,amd64", "--os", "windows,linux")

	require.Zero(t, r.code, r)
	require.Nil(t, m.failedLines())
	requireSigned(t, w.registry.Access(), w.key.Public,
		index.Reference, index.Child("linux/amd64"), index.Child("linux/s390x"), index.Child("windows/amd64"))
}

// No registry of today stores schema 1, but mirrors of old ones still serve it.
func TestSchemaOneIsDead(t *testing.T) {
	t.Parallel()
	const body = `{"schemaVersion":1,"name":"old/app","tag":"1.0","architecture":"amd64",` +
		`"fsLayers":[{"blobSum":"sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"}],` +
		`"history":[{"v1Compatibility":"{}"}]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			_, _ = w.Write([]byte(body)) // the client may have gone
		}
	}))
	t.Cleanup(server.Close)
	m := newMachine(t)
	reference := server.Listener.Addr().String() + "/old/app:1.0"

	r := m.submit(m.list(reference))

	require.Equal(t, 1, r.code, r)
	require.Equal(t, []string{reference}, m.failedLines())
	require.Equal(t, "unsupported-media-type", m.failures()[0].Class)
}

// What people put into lists: each line means what it meant for hangar, is
// signed once, and what cannot be read is told and comes back.
func TestListAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	project := repository(t)
	app, err := w.pusher.Single(t.Context(), project+"/app:1.0", "linux/amd64")
	require.NoError(t, err)
	mirrored, err := w.pusher.Single(t.Context(), project+"/mirrored:2.0", "linux/amd64")
	require.NoError(t, err)
	latest, err := w.pusher.Single(t.Context(), project+"/plain:latest", "linux/amd64")
	require.NoError(t, err)
	list := m.write("images.txt", "\ufeff# images\r\n"+
		"docker.io/library/app:1.0\r\n"+
		"\r\n"+
		"// mirrored ones\r\n"+
		"docker.io/library/source example.org/team/mirrored 2.0\r\n"+
		"app:1.0\r\n"+
		"!! not an image !!\r\n"+
		"plain\r\n")

	r := m.submit(list, "--registry", w.registry.Host(), "--project", project)

	require.Equal(t, 1, r.code, r)
	require.Regexp(t, `warn.*images\.txt.*\b7\b`, r.stderr, "the warning names file and line")
	require.Equal(t, []string{"!! not an image !!"}, m.failedLines())
	require.Equal(t, "invalid-request", m.failures()[0].Class)
	requireSigned(t, access, w.key.Public, app.Reference, mirrored.Reference, latest.Reference)
	requireSignatures(t, 1, w.pusher, app, app.Digest)
}

func digestOf(reference string) string {
	_, digest, _ := strings.Cut(reference, "@")
	return digest
}
