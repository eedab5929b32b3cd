package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// requireSigned demands that cosign and the policy engine accept references.
func requireSigned(t *testing.T, access peers.Access, publicKey string, references ...string) {
	t.Helper()
	for _, reference := range references {
		require.NoError(t, peers.CosignVerify(t.Context(), access, reference, publicKey))
		require.NoError(t, peers.PolicyVerify(t.Context(), access, reference, publicKey))
	}
}

// requireUnsigned demands that nothing was attached to digests of an image.
func requireUnsigned(t *testing.T, pusher *peers.Pusher, image peers.Image, digests ...string) {
	t.Helper()
	for _, digest := range digests {
		count, err := pusher.Signatures(t.Context(), image, digest)
		require.NoError(t, err)
		require.Zero(t, count, "%s must not be signed", digest)
	}
}

// requireSignatures demands that a digest of an image has so many signatures.
func requireSignatures(t *testing.T, want int, pusher *peers.Pusher, image peers.Image, digest string) {
	t.Helper()
	got, err := pusher.Signatures(t.Context(), image, digest)
	require.NoError(t, err)
	require.Equal(t, want, got, "signatures of %s", digest)
}

// requireRejected demands that neither verifier accepts a reference.
func requireRejected(t *testing.T, access peers.Access, publicKey, reference string) {
	t.Helper()
	require.Error(t, peers.CosignVerify(t.Context(), access, reference, publicKey))
	var rejected *peers.RejectedError
	require.True(t, errors.As(peers.PolicyVerify(t.Context(), access, reference, publicKey), &rejected))
}

// repository is the name of a repository of the test's own, and of this run of
// it: the registry is shared, and -count runs a test again.
func repository(t *testing.T) string {
	t.Helper()
	unique := filepath.Base(filepath.Dir(t.TempDir()))
	return "e2e/" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(unique))
}

// viaProxy starts a proxy before the shared registry.
func viaProxy(t *testing.T) (*peers.Proxy, *peers.Pusher) {
	t.Helper()
	w := shared(t)
	return proxyTo(t, w.registry.Host(), w.registry.Access())
}

// proxyTo starts a proxy before a registry.
func proxyTo(t *testing.T, registry string, access peers.Access) (*peers.Proxy, *peers.Pusher) {
	t.Helper()
	proxy, err := peers.StartProxy(registry, access)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	pusher, err := peers.NewPusher(proxy.Host(), access)
	require.NoError(t, err)
	return proxy, pusher
}

// startRegistry starts a registry of the test's own.
func startRegistry(t *testing.T, o peers.RegistryOptions) (*peers.Registry, *peers.Pusher) {
	t.Helper()
	registry, err := peers.StartRegistry(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("own registry:\n%s", registry.Logs())
		}
		require.NoError(t, registry.Close())
	})
	pusher, err := peers.NewPusher(registry.Host(), registry.Access())
	require.NoError(t, err)
	return registry, pusher
}
