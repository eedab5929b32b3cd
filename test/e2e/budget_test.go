package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// The design's budget on distribution, for an index and two of its children:
// 13 requests to sign, and 2 more for the first image of a repository, whose
// shared config blob is then written; 4 when all is signed already.
func TestRequestsPerImage(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	repo := repository(t)
	var lines []string
	var images []peers.Image
	for _, tag := range []string{"1.0", "2.0"} {
		image, err := pusher.Index(t.Context(), repo+":"+tag, "linux/amd64", "linux/arm64")
		require.NoError(t, err)
		images, lines = append(images, image), append(lines, image.Reference)
	}
	proxy.Reset()

	r := m.submit(m.list(lines...), "--skip-login", "--jobs", "1")

	require.Zero(t, r.code, r)
	require.Equal(t, map[string]int{
		"GET manifest": 2 + 6, // the images; whether each digest has signatures
		"POST upload":  6 + 1, // payloads; the config
		"PUT upload":   6 + 1,
		"PUT manifest": 6,
	}, proxy.Counts(), "13 for each image and 2 for the repository")

	for _, image := range images {
		requireSigned(t, m.w.registry.Access(), m.w.key.Public, image.Reference, image.Child("linux/amd64"))
	}
	proxy.Reset()

	r = newMachine(t).submit(m.list(lines...), "--skip-login", "--jobs", "1")

	require.Zero(t, r.code, r)
	require.Equal(t, map[string]int{"GET manifest": 2 * 4}, proxy.Counts(), "4 for each image, and nothing is written")
}

// Others' signatures stay, and a second key's joins them.
func TestAppendToWhatCosignSigned(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	image, err := w.pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	theirs, err := peers.GenerateKey(t.Context(), t.TempDir(), "theirs")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), theirs,
		"--recursive", "--sign-container-identity", image.Reference))

	r := m.submit(m.list(image.Reference))

	require.Zero(t, r.code, r)
	for _, key := range []peers.KeyPair{theirs, w.key} {
		requireSigned(t, access, key.Public, image.Reference, image.ByDigest(), image.Child("linux/amd64"))
	}
	requireSignatures(t, 2, w.pusher, image, image.Digest)

	// And cosign appends to ours in turn.
	third, err := peers.GenerateKey(t.Context(), t.TempDir(), "third")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), third,
		"--sign-container-identity", image.Reference))
	for _, key := range []peers.KeyPair{theirs, w.key, third} {
		requireSigned(t, access, key.Public, image.Reference)
	}
	r = newMachine(t).submit(m.list(image.Reference))
	require.Zero(t, r.code, r)
	requireSignatures(t, 3, w.pusher, image, image.Digest)
}
