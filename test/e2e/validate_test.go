package e2e

import (
	"encoding/csv"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// validateList verifies a list with a public key.
func (m *machine) validateList(list, publicKey string, more ...string) result {
	m.t.Helper()
	flags := []string{"validate", "--file", list, "--sigstore-pubkey", `"` + publicKey + `"`, "--failed", m.failed(), "--tls-verify=false"}
	return m.run("sign-submit", append(flags, more...)...)
}

// What cosign has signed, in either of its ways, is valid by our rules where it
// is by those of containers/image, and told apart where it is not.
func TestValidateWhatCosignSigned(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access, repo := m.w, m.w.registry.Access(), repository(t)
	theirs := newKey(t)
	push := func(name string) peers.Image {
		image, err := w.pusher.Single(t.Context(), repo+"/"+name+":1.0", "linux/amd64")
		require.NoError(t, err)
		return image
	}
	named, habit, bundle, other, otherBundle, none := push("named"), push("habit"), push("bundle"), push("other"), push("other-bundle"), push("none")
	require.NoError(t, peers.CosignSign(t.Context(), access, named.ByDigest(), w.key, "--sign-container-identity", named.Reference, "-a", "team=web"))
	require.NoError(t, peers.CosignSign(t.Context(), access, habit.ByDigest(), w.key))
	require.NoError(t, peers.CosignSignBundle(t.Context(), access, bundle.ByDigest(), w.key, "-a", "team=web"))
	require.NoError(t, peers.CosignSign(t.Context(), access, other.ByDigest(), theirs, "--sign-container-identity", other.Reference))
	require.NoError(t, peers.CosignSignBundle(t.Context(), access, otherBundle.ByDigest(), theirs))
	list := m.list(named.Reference, habit.Reference, bundle.Reference, other.Reference, otherBundle.Reference, none.Reference)

	r := m.validateList(list, w.key.Public, "--report", m.path("report.csv"))

	require.Equal(t, 1, r.code, r)
	require.Contains(t, r.stdout, "6 images: 2 valid, 4 not valid, 0 skipped, 0 errors")
	require.Equal(t, []string{habit.Reference, other.Reference, otherBundle.Reference, none.Reference}, m.failedLines())
	var classes []string
	for _, f := range m.failures() {
		classes = append(classes, f.Class)
	}
	require.Equal(t, []string{"wrong-identity", "other-key", "other-key", "no-signature"}, classes)
	require.Contains(t, m.failures()[0].Reason, strings.TrimSuffix(habit.Reference, ":1.0"))
	require.Contains(t, m.failures()[2].Reason, fingerprint(t, theirs), "as the bundle says")
	file, err := os.Open(m.path("report.csv"))
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // only read
	rows, err := csv.NewReader(file).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 7)
	require.Equal(t, []string{named.Reference, named.Reference, "valid", named.Digest}, rows[1][:4])

	require.Zero(t, m.validateList(m.list(named.Reference, bundle.Reference), w.key.Public, "--annotation", "team=web").code)
	require.Equal(t, 1, m.validateList(m.list(named.Reference), w.key.Public, "--annotation", "team=db").code)
	require.Equal(t, 1, m.validateList(m.list(named.Reference, bundle.Reference), w.key.Public, "--format", "tag").code)
	require.Zero(t, m.validateList(m.list(bundle.Reference), w.key.Public, "--format", "referrer").code)
	require.Zero(t, m.validateList(m.list(habit.Reference), w.key.Public, "--exact-repository", strings.TrimSuffix(habit.Reference, ":1.0")).code)
	require.Equal(t, 1, m.validateList(m.list(named.Reference), w.key.Public, "--exact-repository", strings.TrimSuffix(habit.Reference, ":1.0")).code)
}

// Of every reference to what we have signed, we say what the policy engine of
// podman says.
func TestValidateAsThePolicyEngineDoes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access, repo := m.w, m.w.registry.Access(), repository(t)
	image, err := w.pusher.Index(t.Context(), repo+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	require.NoError(t, w.pusher.Copy(t.Context(), image.Reference, repo+":2.0"))
	r := m.submit(m.list(image.Reference))
	require.Zero(t, r.code, r)
	for _, reference := range []string{image.Reference, image.ByDigest(), image.Child("linux/arm64"), strings.Replace(image.Reference, ":1.0", ":2.0", 1)} {
		accepted := peers.PolicyVerify(t.Context(), access, reference, w.key.Public) == nil
		r := m.validateList(m.list(reference), w.key.Public)
		require.Equal(t, accepted, r.code == 0, "%s: %s", reference, r)
	}
}

// What cosign 3 does not find, because of somebody else's bundle, is told of.
func TestValidateTellsOfHiddenSignatures(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	image, err := w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	list := m.list(image.Reference)
	require.Zero(t, m.submit(list).code)
	require.NotContains(t, m.validateList(list, w.key.Public).stdout, "hidden")
	require.NoError(t, peers.CosignVerify(t.Context(), access, image.Reference, w.key.Public))

	require.NoError(t, peers.CosignSignBundle(t.Context(), access, image.ByDigest(), newKey(t)))
	require.Error(t, peers.CosignVerify(t.Context(), access, image.Reference, w.key.Public))
	r := m.validateList(list, w.key.Public)
	require.Zero(t, r.code, r)
	require.Contains(t, r.stdout, "1 valid signatures are hidden from cosign verify 3")

	r = m.submit(list, "--format", "referrer")
	require.Zero(t, r.code, r)
	require.NoError(t, peers.CosignVerify(t.Context(), access, image.Reference, w.key.Public))
	r = m.validateList(list, w.key.Public, "--format", "tag,referrer")
	require.Zero(t, r.code, r)
	require.NotContains(t, r.stdout, "hidden")
}

// A key pair of generate-key is one of cosign's, both ways.
func TestGeneratedKeysAreCosigns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	access := m.w.registry.Access()
	r := m.run("sign-submit", "generate-key", "--prefix", m.path("release"), "--passphrase-file", m.write("secret", "some words\n"))
	require.Zero(t, r.code, r)
	pair := peers.KeyPair{Private: m.path("release.key"), Public: m.path("release.pub"), Passphrase: "some words"}
	require.Contains(t, r.stdout, fingerprint(t, pair))
	info, err := os.Stat(pair.Private)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	image, err := m.w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), pair, "--sign-container-identity", image.Reference))
	require.NoError(t, peers.PolicyVerify(t.Context(), access, image.Reference, pair.Public))
	require.Zero(t, m.validateList(m.list(image.Reference), pair.Public).code)
}
