package e2e

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// The same image signed twice, by processes and in registries that know nothing
// of each other, gets the same bytes: signatures, bundles, and the indexes that
// list them. So whoever writes again changes nothing.
func TestSigningIsReproducible(t *testing.T) {
	t.Parallel()
	w := shared(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	keys := []peers.KeyPair{w.key, encrypted(t, ec(t, elliptic.P384())), encrypted(t, rsaKey(t, 2048)), encrypted(t, ed)}
	other, pusher := startRegistry(t, peers.RegistryOptions{})
	path := repository(t) + ":1.0"
	attached := func(pusher *peers.Pusher, host string) map[string]string {
		image, err := pusher.Index(t.Context(), path, "linux/amd64", "linux/arm64")
		require.NoError(t, err)
		m := newMachine(t)
		flags := []string{"--format", "tag,referrer", "--identity", host + "=registry.example.com"}
		for _, key := range keys {
			flags = append(flags, m.key(key)...)
		}
		m.signWith(m.list(image.Reference), flags...)
		texts := map[string]string{}
		for _, digest := range []string{image.Digest, image.Children[0].Digest, image.Children[1].Digest} {
			for _, name := range []string{image.Signature(digest), image.Referrers(digest)} {
				body, err := pusher.Manifest(t.Context(), name)
				require.NoError(t, err)
				texts[strings.TrimPrefix(name, host)] = string(body)
			}
			require.Len(t, referrersOf(t, texts[strings.TrimPrefix(image.Referrers(digest), host)]), len(keys))
		}
		return texts
	}

	require.Equal(t, attached(w.pusher, w.registry.Host()), attached(pusher, other.Host()))
}

// Three signers add to one image, in both formats: cosign before us and cosign
// after us. All signatures stay, and each verifies.
func TestSignaturesOfOthersStay(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	image, err := w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	theirs := func() peers.KeyPair {
		key := newKey(t)
		require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), key, "--sign-container-identity", image.Reference))
		require.NoError(t, peers.CosignSignBundle(t.Context(), access, image.ByDigest(), key))
		return key
	}
	flags := append(m.key(w.key), "--format", "tag,referrer")

	before := theirs()
	m.signWith(m.list(image.Reference), flags...)
	after := theirs()

	for _, key := range []peers.KeyPair{before, w.key, after} {
		requireBothFormats(t, access, key.Public, image.Reference)
		require.NoError(t, peers.BundleVerify(t.Context(), access, image.Reference, key.Public))
	}
	requireSignatures(t, 3, w.pusher, image, image.Digest)
	index, err := w.pusher.Manifest(t.Context(), image.Referrers(image.Digest))
	require.NoError(t, err)
	require.Len(t, referrersOf(t, string(index)), 3)

	again := newMachine(t)
	r := again.signWith(again.list(image.Reference), flags...)
	require.Contains(t, r.stdout, "1 signed already")
}

// referrersOf are the digests that an index of referrers lists.
func referrersOf(t *testing.T, index string) (digests []string) {
	t.Helper()
	var read struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	require.NoError(t, json.Unmarshal([]byte(index), &read))
	for _, entry := range read.Manifests {
		digests = append(digests, entry.Digest)
	}
	return digests
}
