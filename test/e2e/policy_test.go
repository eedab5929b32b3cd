package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// policed is a machine that signs only what a policy lets it, and reads the
// signatures that are attached to images.
func policed(t *testing.T, policy string) *machine {
	t.Helper()
	m := newMachine(t)
	m.write(".config/containers/registries.d/default.yaml", "default-docker:\n  use-sigstore-attachments: true\n")
	m.write(".config/containers/policy.json", policy)
	return m
}

// signedBy is a policy that wants a signature by a key.
func signedBy(key peers.KeyPair, more string) string {
	return fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyPath":%q%s}]}`, key.Public, more)
}

const anyTag = `,"signedIdentity":{"type":"matchRepository"}`

// "Sign again only what its origin has signed" is one entry of a policy file.
func TestOnlyWhatItsOriginSigned(t *testing.T) {
	t.Parallel()
	w := shared(t)
	access := w.registry.Access()
	origin, other := newKey(t), newKey(t)
	repo := repository(t)
	push := func(tag string) peers.Image {
		index, err := w.pusher.Index(t.Context(), repo+":"+tag, "linux/amd64", "linux/arm64")
		require.NoError(t, err)
		return index
	}
	ours, theirs, unsigned, moved := push("ours"), push("theirs"), push("unsigned"), push("moved")
	m := policed(t, signedBy(origin, ""))
	asOrigin := func(key peers.KeyPair, image peers.Image) {
		t.Helper()
		args := append(newMachine(t).key(key), "--file", m.list(image.Reference), "--failed", m.failed(), "--tls-verify=false", "--insecure-policy")
		r := m.run("sign-submit", args...)
		require.Zero(t, r.code, r)
	}
	asOrigin(origin, ours)
	asOrigin(other, theirs)
	asOrigin(origin, moved)
	again, err := w.pusher.Index(t.Context(), repo+":moved", "linux/arm64") // the tag is another image now
	require.NoError(t, err)

	r := m.submit(m.list(ours.Reference, theirs.Reference, unsigned.Reference, moved.Reference))
	require.Equal(t, 1, r.code, r)
	require.Equal(t, []string{theirs.Reference, unsigned.Reference, moved.Reference}, m.failedLines())
	for _, failure := range m.failures() {
		require.Equal(t, "policy-rejected", failure.Class, failure.Reason)
		require.Contains(t, failure.Reason, m.path(".config/containers/policy.json"))
	}
	require.Contains(t, m.failures()[1].Reason, "A signature was required, but no signature exists")
	requireSigned(t, access, w.key.Public, ours.Reference, ours.Child("linux/arm64"))
	for _, image := range []string{theirs.Reference, unsigned.Reference, again.Reference} {
		require.Error(t, peers.CosignVerify(t.Context(), access, image, w.key.Public), image)
	}

	// Signed already does not mean allowed.
	require.NoError(t, os.WriteFile(m.path(".config/containers/policy.json"), []byte(signedBy(other, "")), 0o600))
	r = m.submit(m.list(ours.Reference))
	require.Equal(t, 1, r.code, r)
	require.Equal(t, "policy-rejected", m.failures()[0].Class)

	// Whoever wants none says so.
	r = m.submit(m.list(ours.Reference), "--insecure-policy")
	require.Zero(t, r.code, r)
}

// Who signs with cosign signs the index, and calls it by no tag.
func TestWhatCosignSignedIsSignedAgain(t *testing.T) {
	t.Parallel()
	w := shared(t)
	origin := newKey(t)
	index, err := w.pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), w.registry.Access(), index.ByDigest(), origin))

	m := policed(t, signedBy(origin, ""))
	r := m.submit(m.list(index.Reference))
	require.Equal(t, 1, r.code, r)
	require.Contains(t, m.failures()[0].Reason, "Signature for identity", "the default asks for the tag")

	m = policed(t, signedBy(origin, anyTag))
	r = m.submit(m.list(index.Reference))
	require.Zero(t, r.code, r)
	requireSigned(t, w.registry.Access(), w.key.Public, index.Reference, index.Child("linux/amd64"), index.Child("linux/arm64"))
}

// What is missing for a policy to be met is said, where that can be known.
func TestPolicyWithoutRegistriesD(t *testing.T) {
	t.Parallel()
	w := shared(t)
	origin := newKey(t)
	image, err := w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), w.registry.Access(), image.ByDigest(), origin))
	m := newMachine(t)
	file := m.write("policy.json", signedBy(origin, anyTag))
	r := m.submit(m.list(image.Reference), "--policy", file)
	require.Equal(t, 1, r.code, r)
	require.Equal(t, "policy-rejected", m.failures()[0].Class)
	require.Contains(t, m.failures()[0].Reason, "registries.d has use-sigstore-attachments: true")
}

// A registry that fails has rejected nothing: the image is tried again.
func TestRegistryThatFailsWhileThePolicyIsEvaluated(t *testing.T) {
	t.Parallel()
	w := shared(t)
	origin := newKey(t)
	proxy, pusher := viaProxy(t)
	image, err := pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), w.registry.Access(), image.ByDigest(), origin))
	fails := 2
	proxy.SetFault(func(_ int, r *http.Request) peers.Fault {
		if strings.HasSuffix(r.URL.Path, ".sig") && fails > 0 {
			fails--
			return peers.Fault{Status: http.StatusServiceUnavailable}
		}
		return peers.Fault{}
	})
	m := policed(t, signedBy(origin, anyTag))
	r := m.submit(m.list(image.Reference), "--backoff", "10ms")
	require.Zero(t, r.code, r)

	// Until it has failed too often.
	proxy.SetFault(func(_ int, r *http.Request) peers.Fault {
		if strings.HasSuffix(r.URL.Path, ".sig") {
			return peers.Fault{Status: http.StatusServiceUnavailable}
		}
		return peers.Fault{}
	})
	image, err = pusher.Single(t.Context(), repository(t)+":2.0", "linux/amd64")
	require.NoError(t, err)
	r = m.submit(m.list(image.Reference), "--attempts", "2", "--backoff", "10ms")
	require.Equal(t, 1, r.code, r)
	require.Equal(t, "registry-unavailable", m.failures()[0].Class)
}
