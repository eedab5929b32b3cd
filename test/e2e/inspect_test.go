package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// inspected is what inspect says as JSON.
type inspected struct {
	Digest  string
	Digests []struct {
		Digest, Platform string
		Signatures       []struct {
			Format, Attachment, Key, Identity, Attests, Problem string
			Verified, Hidden                                    bool
			Annotations                                         map[string]string
		}
	}
}

// inspect returns what is said of an image.
func (m *machine) inspect(reference string, more ...string) inspected {
	m.t.Helper()
	r := m.run("sign-submit", append([]string{"inspect", reference, "--output", "json", "--tls-verify=false"}, more...)...)
	require.Zero(m.t, r.code, r)
	var found inspected
	require.NoError(m.t, json.Unmarshal([]byte(r.stdout), &found))
	return found
}

func TestInspectWhatCosignSigned(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	image, err := w.pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	theirs := newKey(t)
	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), w.key, "--recursive", "-a", "team=web"))
	require.NoError(t, peers.CosignSignBundle(t.Context(), access, image.ByDigest(), theirs, "-a", "team=db"))

	found := m.inspect(image.Reference, "--sigstore-pubkey", w.key.Public)

	require.Equal(t, image.Digest, found.Digest)
	require.Len(t, found.Digests, 3)
	require.Equal(t, "linux/arm64", found.Digests[2].Platform)
	require.Len(t, found.Digests[2].Signatures, 1)
	onIndex := found.Digests[0].Signatures
	require.Len(t, onIndex, 2)
	require.Equal(t, "tag", onIndex[0].Format)
	require.Equal(t, fingerprint(t, w.key), onIndex[0].Key)
	require.True(t, onIndex[0].Verified)
	require.True(t, onIndex[0].Hidden)
	require.Equal(t, strings.TrimSuffix(image.Reference, ":1.0"), onIndex[0].Identity)
	require.Equal(t, map[string]string{"team": "web"}, onIndex[0].Annotations)
	require.Equal(t, "referrer", onIndex[1].Format)
	require.Equal(t, fingerprint(t, theirs), onIndex[1].Key, "as it claims")
	require.False(t, onIndex[1].Verified)
	require.Empty(t, onIndex[1].Problem)
	require.Equal(t, map[string]string{"team": "db"}, onIndex[1].Annotations)

	for _, reference := range []string{image.Reference, image.Signature(image.Digest), strings.TrimSuffix(image.Reference, ":1.0") + "@" + onIndex[1].Attachment} {
		stored, err := w.pusher.Manifest(t.Context(), reference)
		require.NoError(t, err)
		r := m.run("sign-submit", "inspect", reference, "--raw", "--tls-verify=false")
		require.Zero(t, r.code, r)
		require.Equal(t, string(stored), r.stdout)
	}
}
