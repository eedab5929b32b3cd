package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// signWith signs a list over plain http with the flags alone, and demands that
// all of it is signed.
func (m *machine) signWith(list string, flags ...string) result {
	m.t.Helper()
	r := m.run("sign-submit", append(flags, "--file", list, "--failed", m.failed(), "--tls-verify=false", "--skip-login", "--jobs", "1")...)
	require.Zero(m.t, r.code, r)
	return r
}

// newKey is a key of the test's own.
func newKey(t *testing.T) peers.KeyPair {
	t.Helper()
	key, err := peers.GenerateKey(t.Context(), t.TempDir(), "passphrase of "+t.Name())
	require.NoError(t, err)
	return key
}

// newIndex is an index with two platforms and their attestations.
func newIndex(t *testing.T, pusher *peers.Pusher) peers.Image {
	t.Helper()
	image, err := pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	return image
}

// digests are all that an index names, and the index itself.
func digests(t *testing.T, pusher *peers.Pusher, image peers.Image) (all []string) {
	t.Helper()
	body, err := pusher.Manifest(t.Context(), image.ByDigest())
	require.NoError(t, err)
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	require.NoError(t, json.Unmarshal(body, &index))
	for _, child := range index.Manifests {
		all = append(all, child.Digest)
	}
	require.Len(t, all, 4, "two platforms and their attestations")
	return append(all, image.Digest)
}

// requireBothFormats demands that cosign accepts references as it looks by
// default, and as it looks for signatures under a tag.
func requireBothFormats(t *testing.T, access peers.Access, publicKey string, references ...string) {
	t.Helper()
	requireSigned(t, access, publicKey, references...)
	for _, reference := range references {
		require.NoError(t, peers.CosignVerify(t.Context(), access, reference, publicKey, "--new-bundle-format=false"))
	}
}

// A second key costs no request: both signatures of a digest are one write.
func TestTwoKeysInOneWrite(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, second := m.w, newKey(t)
	proxy, pusher := viaProxy(t)
	counts := func(flags ...string) (peers.Image, map[string]int) {
		image, err := pusher.Index(t.Context(), fmt.Sprintf("%s/%d:1.0", repository(t), len(flags)), "linux/amd64", "linux/arm64")
		require.NoError(t, err)
		proxy.Reset()
		m.signWith(m.list(image.Reference), flags...)
		return image, proxy.Counts()
	}
	_, one := counts(m.key(w.key)...)

	image, two := counts(append(m.key(second), m.key(w.key)...)...)

	require.Equal(t, one, two)
	for _, key := range []peers.KeyPair{w.key, second} {
		requireSigned(t, w.registry.Access(), key.Public, image.Reference, image.ByDigest(), image.Child("linux/amd64"))
	}
	for _, digest := range []string{image.Digest, digestOf(image.Child("linux/arm64"))} {
		requireSignatures(t, 2, pusher, image, digest)
	}

	// Signed already, also when the keys come in another order; and a third joins.
	again := newMachine(t)
	proxy.Reset()
	r := again.signWith(again.list(image.Reference), append(again.key(w.key), again.key(second)...)...)
	require.Contains(t, r.stdout, "1 signed already")
	require.Equal(t, map[string]int{"GET manifest": 4}, proxy.Counts())
	again.signWith(again.list(image.Reference), append(again.key(newKey(t)), again.key(second)...)...)
	requireSignatures(t, 3, pusher, image, image.Digest)
}

// The images of a mirror are signed by the names of the originals.
func TestIdentityRules(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w := m.w
	image := newIndex(t, w.pusher)
	host, path, _ := strings.Cut(image.Reference, "/")
	original := "registry.example.com/hub/" + strings.TrimPrefix(path, "e2e/")

	r := m.signWith(m.list(image.Reference), append(m.key(w.key),
		"--identity", host+"/e2e=registry.example.com/hub", "--identity", host+"="+host, "--identity", "other.example.com=docker.io")...)

	require.Contains(t, r.stdout, "1 images: 1 signed")
	requireSignatures(t, 2, w.pusher, image, image.Digest)
	requireSigned(t, w.registry.Access(), w.key.Public, image.Reference, image.ByDigest())
	remap := fmt.Sprintf(`{"type": "remapIdentity", "prefix": "%s/e2e", "signedPrefix": "registry.example.com/hub"}`, host)
	exact := func(name string) string {
		return fmt.Sprintf(`{"type": "exactReference", "dockerReference": %q}`, name)
	}
	for _, identity := range []string{remap, exact(original), exact(image.Reference)} {
		require.NoError(t, peers.PolicyVerifyAs(t.Context(), w.registry.Access(), image.Reference, w.key.Public, identity))
	}
	var rejected *peers.RejectedError
	err := peers.PolicyVerifyAs(t.Context(), w.registry.Access(), image.Reference, w.key.Public, exact("docker.io/"+path))
	require.True(t, errors.As(err, &rejected), "%v", err)

	// Both are told of, and seen to be there.
	results := m.run("sign-submit", "results", m.batch(), "--output", "json")
	require.Zero(t, results.code, results)
	require.Contains(t, results.stdout, `"identity": "`+original+`"`)
	require.Contains(t, results.stdout, `"identity": "`+image.Reference+`"`)
	again := newMachine(t)
	r = again.signWith(again.list(image.Reference), append(again.key(w.key), "--identity", host+"/e2e=registry.example.com/hub")...)
	require.Contains(t, r.stdout, "1 signed already")
}

// batch is the name of the one batch that was signed on this machine.
func (m *machine) batch() string {
	m.t.Helper()
	r := m.run("sign-submit", "batches", "--output", "json")
	require.Zero(m.t, r.code, r)
	var answer struct {
		Batches []struct {
			Batch string `json:"batch"`
		} `json:"batches"`
	}
	require.NoError(m.t, json.Unmarshal([]byte(r.stdout), &answer))
	require.Len(m.t, answer.Batches, 1)
	return answer.Batches[0].Batch
}

// Annotations are what cosign verify -a looks for, in both formats.
func TestAnnotations(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"tag", "referrer"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			w, image := m.w, newIndex(t, m.w.pusher)
			flags := append(m.key(w.key), "--format", format, "--annotation", "team=platform", "--annotation", "note=one, two")
			m.signWith(m.list(image.Reference), flags...)
			verify := func(annotations ...string) error {
				return peers.CosignVerify(t.Context(), w.registry.Access(), image.Child("linux/arm64"), w.key.Public, annotations...)
			}
			require.NoError(t, verify())
			require.NoError(t, verify("-a", "team=platform", "-a", `"note=one, two"`), "cosign splits at commas outside quotes")
			require.Error(t, verify("-a", "team=other"))
			require.Error(t, verify("-a", "owner=platform"))
			if format == "tag" {
				requireSigned(t, w.registry.Access(), w.key.Public, image.Reference)
			}

			// Signed already is what makes the same claims.
			again := newMachine(t)
			r := again.signWith(again.list(image.Reference), flags...)
			require.Contains(t, r.stdout, "1 signed already")
			r = again.signWith(again.list(image.Reference), append(again.key(w.key), "--format", format, "--annotation", "team=other")...)
			require.Contains(t, r.stdout, "1 images: 1 signed")
			require.NoError(t, verify("-a", "team=other"))
			require.NoError(t, verify("-a", "team=platform"), "and the other signature stays")
		})
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	proxy, pusher := viaProxy(t)
	image := newIndex(t, pusher)
	references := []string{image.Reference, image.ByDigest(), image.Child("linux/amd64"), image.Child("linux/arm64")}

	m.signWith(m.list(image.Reference), append(m.key(w.key), "--format", "referrer")...)

	for _, reference := range references {
		require.NoError(t, peers.CosignVerify(t.Context(), access, reference, w.key.Public))
		require.Error(t, peers.CosignVerify(t.Context(), access, reference, w.key.Public, "--new-bundle-format=false"))
	}
	requireUnsigned(t, pusher, image, image.Digest)
	require.Error(t, peers.PolicyVerify(t.Context(), access, image.Reference, w.key.Public), "containers/image reads no bundles")

	// What is there already is not written again; what is missing is.
	m.signWith(m.list(image.Reference), append(m.key(w.key), "--format", "referrer,tag")...)
	requireBothFormats(t, access, w.key.Public, references...)
	proxy.Reset()
	again := newMachine(t)
	r := again.signWith(again.list(image.Reference), append(again.key(w.key), "--format", "tag,referrer")...)
	require.Contains(t, r.stdout, "1 signed already")
	require.Zero(t, written(proxy)+proxy.Counts()["PUT manifest"]+proxy.Counts()["POST upload"], "%v", proxy.Counts())

	// Two keys in both formats, at once.
	second := newKey(t)
	m.signWith(m.list(image.Reference), append(append(m.key(second), m.key(w.key)...), "--format", "tag,referrer")...)
	requireBothFormats(t, access, second.Public, references...)
	requireBothFormats(t, access, w.key.Public, references...)
}

func TestWhatOfAnIndexIsSigned(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags []string
		wants func(image peers.Image, digest string) int
	}{
		"recursive": {
			[]string{"--recursive", "--arch", "amd64"},
			func(peers.Image, string) int { return 1 },
		},
		"skip-index": {
			[]string{"--skip-index"},
			func(image peers.Image, digest string) int {
				if digest == digestOf(image.Child("linux/amd64")) || digest == digestOf(image.Child("linux/arm64")) {
					return 1
				}
				return 0
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			image := newIndex(t, m.w.pusher)
			m.signWith(m.list(image.Reference), append(m.key(m.w.key), c.flags...)...)
			for _, digest := range digests(t, m.w.pusher, image) {
				requireSignatures(t, c.wants(image, digest), m.w.pusher, image, digest)
			}
			requireSigned(t, m.w.registry.Access(), m.w.key.Public, image.Child("linux/amd64"))
		})
	}
}

// A key that is replaced leaves no signature, and nobody else's goes with it.
func TestReplacedKey(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	old, theirs := newKey(t), newKey(t)
	proxy, pusher := viaProxy(t)
	image := newIndex(t, pusher)
	references := []string{image.Reference, image.Child("linux/amd64"), image.Child("linux/arm64")}
	m.signWith(m.list(image.Reference), m.key(old)...)
	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), theirs,
		"--recursive", "--sign-container-identity", image.Reference))
	proxy.Reset()

	m.signWith(m.list(image.Reference), append(m.key(w.key), "--confirm-writes", "never",
		"--replace-key", fingerprint(t, old), "--replace-pubkey", old.Public)...)

	require.Equal(t, 3, proxy.Counts()["PUT manifest"], "one write for each digest")
	for _, reference := range references {
		requireRejected(t, access, old.Public, reference)
		requireSigned(t, access, w.key.Public, reference)
		requireSigned(t, access, theirs.Public, reference)
	}
	requireSignatures(t, 2, pusher, image, image.Digest)

	// Once more, there is nothing to replace.
	proxy.Reset()
	again := newMachine(t)
	r := again.signWith(again.list(image.Reference), append(again.key(w.key),
		"--replace-key", strings.TrimPrefix(fingerprint(t, old), "sha256:"), "--replace-pubkey", old.Public)...)
	require.Contains(t, r.stdout, "1 signed already")
	require.Zero(t, proxy.Counts()["PUT manifest"])
}

// So with bundles: the old ones are found no more, whoever listed them.
func TestReplacedKeyOfBundles(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	access := m.w.registry.Access()
	old, theirs := newKey(t), newKey(t)
	image := newIndex(t, m.w.pusher)
	references := []string{image.Reference, image.Child("linux/amd64")}
	m.signWith(m.list(image.Reference), append(m.key(old), "--format", "referrer")...)
	for _, reference := range []string{image.ByDigest(), image.Child("linux/amd64")} {
		require.NoError(t, peers.CosignSignBundle(t.Context(), access, reference, theirs))
	}

	m.signWith(m.list(image.Reference), append(m.key(m.w.key), "--format", "referrer",
		"--replace-key", fingerprint(t, old), "--replace-pubkey", old.Public)...)

	for _, reference := range references {
		require.Error(t, peers.CosignVerify(t.Context(), access, reference, old.Public))
		require.NoError(t, peers.CosignVerify(t.Context(), access, reference, m.w.key.Public))
		require.NoError(t, peers.CosignVerify(t.Context(), access, reference, theirs.Public))
	}
}

// A bundle of somebody hides a signature from cosign, and it is said.
func TestHiddenSignaturesAreReported(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	image, err := w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSignBundle(t.Context(), access, image.ByDigest(), newKey(t)))

	r := m.signWith(m.list(image.Reference), append(m.key(w.key), "--report-hidden")...)

	require.Error(t, peers.CosignVerify(t.Context(), access, image.Reference, w.key.Public), "it is hidden")
	require.Contains(t, r.stdout, "1 signatures are hidden from cosign verify 3")
	require.Contains(t, r.stdout, "--format tag,referrer")
	results := m.run("sign-submit", "results", m.batch(), "--output", "csv")
	require.Contains(t, results.stdout, ",true\n", "hidden is the last column")

	again := newMachine(t)
	r = again.signWith(again.list(image.Reference), append(again.key(w.key), "--report-hidden", "--format", "tag,referrer", "--output", "json")...)
	require.NotContains(t, r.stdout, "hidden")
	requireBothFormats(t, access, w.key.Public, image.Reference)
}

// The workers of a fleet sign with their own settings.
func TestFleetWithSeveralKeys(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	w, second := m.w, newKey(t)
	image := newIndex(t, w.pusher)
	p := m.worker(server, append(m.key(second), "--annotation", "team=platform")...)
	require.Contains(t, p.stderr.String(), fingerprint(t, w.key))
	require.Contains(t, p.stderr.String(), fingerprint(t, second))

	r := m.run("sign-submit", "--file", m.list(image.Reference), "--nats-url", server.URL(), "--failed", m.failed(), "--batch", "nightly")

	require.Zero(t, r.code, r)
	for _, key := range []peers.KeyPair{w.key, second} {
		requireSigned(t, w.registry.Access(), key.Public, image.Reference)
		require.NoError(t, peers.CosignVerify(t.Context(), w.registry.Access(), image.Reference, key.Public, "-a", "team=platform"))
	}
	r = m.run("sign-submit", "results", "nightly", "--nats-url", server.URL(), "--output", "csv")
	require.Equal(t, 1+3*2, strings.Count(r.stdout, "\n"), r)
}

// fingerprint is what a key is called.
func fingerprint(t *testing.T, key peers.KeyPair) string {
	t.Helper()
	text, err := os.ReadFile(key.Public)
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	require.NotNil(t, block)
	sum := sha256.Sum256(block.Bytes)
	return "sha256:" + hex.EncodeToString(sum[:])
}
