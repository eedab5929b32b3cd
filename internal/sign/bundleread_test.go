package sign

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestVerdictsOnBundles(t *testing.T) {
	t.Parallel()
	other := newKey(t)
	for _, test := range []struct {
		name   string
		change func(*bundle, *statement)
		key    *Key
		want   Verdict
		says   string
	}{
		{name: "ours", want: Valid},
		{name: "of another key", key: other, want: OtherKey, says: "signed by another key (" + other.Fingerprint() + ")"},
		{name: "with no hint", key: other, change: func(b *bundle, _ *statement) { b.VerificationMaterial.PublicKey.Hint = "any" }, want: OtherKey, says: "(unknown)"},
		{name: "of something else", change: func(_ *bundle, s *statement) { s.Subject[0].Digest["sha256"] = hexA }, want: Broken, says: "signature of something else"},
		{name: "an attestation", change: func(_ *bundle, s *statement) { s.PredicateType = "https://slsa.dev/provenance/v1" }, want: NoSignature, says: "no signature"},
		{name: "in the other form of its version", change: func(b *bundle, _ *statement) { b.MediaType = bundleTypePrefix + "+json;version=0.3" }, want: Valid},
		{name: "of a later 0.3", change: func(b *bundle, _ *statement) { b.MediaType = bundleTypePrefix + ".v0.3.1+json" }, want: Valid},
		{name: "of version 0.31", change: func(b *bundle, _ *statement) { b.MediaType = bundleTypePrefix + ".v0.31+json" }, want: Broken, says: "is not read"},
		{name: "without what verifies it", change: func(b *bundle, _ *statement) { b.VerificationMaterial.PublicKey = nil }, want: Broken, says: "what verifies it"},
		{name: "of another version", change: func(b *bundle, _ *statement) { b.MediaType = bundleTypePrefix + "+json;version=0.2" }, want: Broken, says: "is not read"},
		{name: "without a statement", change: func(b *bundle, _ *statement) { b.Envelope = nil }, want: Broken, says: "has no signature"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{}, registrytest.WithReferrers(true))
			key := test.key
			if key == nil {
				key = w.keys[0]
			}
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			w.bundle(t, "app", image, signedBundle(t, key, image.Digest, test.change))
			all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{}), Request{Reference: w.reference("app", "1")})
			require.Equal(t, []Verdict{test.want}, all)
			require.Contains(t, reason, test.says)
		})
	}
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, Options{}, registrytest.WithReferrers(true))
		image := w.PushManifest(t, "app", "1", "linux/amd64")
		made := signedBundle(t, w.keys[0], image.Digest, nil)
		made.Envelope.Signatures[0].Sig[9] ^= 1
		w.bundle(t, "app", image, made)
		all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{}), Request{Reference: w.reference("app", "1")})
		require.Equal(t, []Verdict{Broken}, all)
		require.Contains(t, reason, "claims to be by this key")
	})
	t.Run("of two keys", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, Options{}, registrytest.WithReferrers(true))
		image := w.PushManifest(t, "app", "1", "linux/amd64")
		made := signedBundle(t, w.keys[0], image.Digest, nil)
		made.Envelope.Signatures = append(made.Envelope.Signatures, signedBundle(t, other, image.Digest, nil).Envelope.Signatures...)
		w.bundle(t, "app", image, made)
		all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{}), Request{Reference: w.reference("app", "1")})
		require.Equal(t, []Verdict{Broken}, all)
		require.Contains(t, reason, "2 signatures, and cosign accepts one")
	})
	for name, change := range map[string]func(string) string{
		"with a field nobody knows":           func(text string) string { return strings.Replace(text, "{", `{"x":1,`, 1) },
		"with a statement nobody understands": func(text string) string { return text },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{}, registrytest.WithReferrers(true))
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			made := signedBundle(t, w.keys[0], image.Digest, nil)
			if strings.Contains(name, "statement") {
				made.Envelope.Payload = bytes.Replace(made.Envelope.Payload, []byte("{"), []byte(`{"x":1,`), 1)
				resign(t, w.keys[0], made.Envelope)
			}
			w.bundle(t, "app", image, json.RawMessage(change(string(jsonOf(t, made)))))
			all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{}), Request{Reference: w.reference("app", "1")})
			require.Equal(t, []Verdict{Broken}, all)
			require.Contains(t, reason, "not the JSON it should be")
		})
	}
	t.Run("with a keyid", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, Options{}, registrytest.WithReferrers(true))
		image := w.PushManifest(t, "app", "1", "linux/amd64")
		text := strings.Replace(string(jsonOf(t, signedBundle(t, w.keys[0], image.Digest, nil))), `{"sig":`, `{"keyid":"a","sig":`, 1)
		w.bundle(t, "app", image, json.RawMessage(text))
		all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{}), Request{Reference: w.reference("app", "1")})
		require.Equal(t, []Verdict{Broken}, all)
		require.Contains(t, reason, "keyid")
	})
}

// signedBundle is a bundle that is changed before it is signed.
func signedBundle(t *testing.T, key *Key, manifest string, change func(*bundle, *statement)) bundle {
	t.Helper()
	body, err := newBundle(t.Context(), key, digest.Digest(manifest), map[string]string{"team": "web"})
	require.NoError(t, err)
	var made bundle
	var says statement
	require.NoError(t, json.Unmarshal(body, &made))
	require.NoError(t, json.Unmarshal(made.Envelope.Payload, &says))
	if change == nil {
		return made
	}
	envelope := made.Envelope
	change(&made, &says)
	envelope.Payload = jsonOf(t, says)
	resign(t, key, envelope)
	return made
}

func resign(t *testing.T, key *Key, e *envelope) {
	t.Helper()
	sum := "DSSEv1 28 application/vnd.in-toto+json " + strconv.Itoa(len(e.Payload)) + " " + string(e.Payload)
	var err error
	e.Signatures[0].Sig, err = key.sign(t.Context(), []byte(sum))
	require.NoError(t, err)
}

// bundle attaches a bundle to an image.
func (w world) bundle(t *testing.T, repository string, image registrytest.Image, made any) {
	t.Helper()
	body := jsonOf(t, made)
	around, err := newReferrer(target{digest: digest.Digest(image.Digest), mediaType: image.MediaType, size: int64(len(image.Body))}, body, unrecordedTime)
	require.NoError(t, err)
	w.PutBlob(t, repository, body)
	w.PutBlob(t, repository, []byte(emptyConfig))
	w.Put(t, repository, digest.FromBytes(around.body).String(), oci.MediaTypeImageManifest, around.body)
}

// cosign looks at every referrer, whatever is said of its type.
func TestABundleThatIsListedAsSomethingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	req := Request{Reference: w.reference("app", "1")}
	_, err := w.signer.Sign(t.Context(), req)
	require.NoError(t, err)
	w.bundle(t, "app", image, signedBundle(t, newKey(t), image.Digest, nil))
	repo, err := w.signer.open(w.Host() + "/app")
	require.NoError(t, err)
	made := newReferring(t, image, jsonOf(t, signedBundle(t, newKey(t), image.Digest, nil)))
	w.PutBlob(t, "app", made.bundle)
	w.Put(t, "app", digest.FromBytes(made.body).String(), oci.MediaTypeImageManifest, made.body)
	made.entry.ArtifactType = "application/spdx+json"
	w.Put(t, "app", fallbackTagOf(digest.Digest(image.Digest)), oci.MediaTypeImageIndex, jsonOf(t, map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImageIndex, "manifests": []descriptor{made.entry},
	}))

	found, err := w.verifier(t, VerifierOptions{}).Verify(t.Context(), req)

	require.NoError(t, err)
	require.True(t, found.Digests[0].Hidden)
	hidden, err := hiddenKeys(t.Context(), repo, digest.Digest(image.Digest), w.keys)
	require.NoError(t, err)
	require.Equal(t, []string{w.keys[0].Fingerprint()}, hidden)
}

func newReferring(t *testing.T, image registrytest.Image, bundle []byte) referrer {
	t.Helper()
	made, err := newReferrer(target{digest: digest.Digest(image.Digest), mediaType: image.MediaType, size: int64(len(image.Body))}, bundle, unrecordedTime)
	require.NoError(t, err)
	return made
}

// containers/image reads every layer, and fails where it cannot.
func TestALayerThatIsNoSignatureAndNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	req := Request{Reference: w.reference("app", "1")}
	_, err := w.signer.Sign(t.Context(), req)
	require.NoError(t, err)
	tag := attachmentTag(digest.Digest(image.Digest))
	for name, warned := range map[string]bool{"there": false, "gone": true} {
		mediaType, body, _ := w.Get("app", tag)
		around, err := parseAttachment(registry.Manifest{MediaType: mediaType, Body: body}, "layers")
		require.NoError(t, err)
		layer := descriptor{MediaType: "text/plain", Size: int64(len(name)), Digest: digest.FromString(name)}
		if !warned {
			w.PutBlob(t, "app", []byte(name))
		}
		body, err = around.with("test", change{add: []descriptor{layer}})
		require.NoError(t, err)
		w.Put(t, "app", tag+name, mediaType, body)
		w.Put(t, "app", tag, mediaType, body)

		found, err := w.verifier(t, VerifierOptions{}).Verify(t.Context(), req)

		require.NoError(t, err)
		require.True(t, found.Valid())
		require.Equal(t, warned, len(found.Digests[0].Warnings) > 0, name)
		w.Put(t, "app", tag, mediaType, around.body)
	}
}
