package sign

import (
	"context"
	"encoding/base64"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// verifier is one with the keys of the world, unless others are given.
func (w world) verifier(t *testing.T, o VerifierOptions) *Verifier {
	t.Helper()
	if o.Keys == nil {
		for _, key := range w.keys {
			o.Keys = append(o.Keys, key.Public())
		}
	}
	o.Registry = newClient(t, registry.Options{})
	v, err := NewVerifier(o)
	require.NoError(t, err)
	return v
}

// verdicts are those of an image, and the first reason.
func verdictsOf(t *testing.T, v *Verifier, req Request) (all []Verdict, reason string) {
	t.Helper()
	found, err := v.Verify(t.Context(), req)
	require.NoError(t, err)
	for _, d := range found.Digests {
		if all = append(all, d.Verdict); reason == "" {
			reason = d.Reason
		}
	}
	return all, reason
}

// signAs signs one image with other options than the world's.
func (w world) signAs(t *testing.T, o Options, req Request) {
	t.Helper()
	o.Registry, o.Locker = newClient(t, registry.Options{}), &locks{}
	if o.Keys == nil {
		o.Keys = w.keys
	}
	s, err := New(o)
	require.NoError(t, err)
	_, err = s.Sign(t.Context(), req)
	require.NoError(t, err)
}

// attach puts an attachment of someone's own making under the tag of a manifest:
// payloads with what stands beside them.
func (w world) attach(t *testing.T, repository, manifest string, layers ...descriptor) {
	t.Helper()
	config := w.PutBlob(t, repository, []byte(constantConfig))
	require.Equal(t, config, digest.FromString(constantConfig).String())
	w.Put(t, repository, attachmentTag(digest.Digest(manifest)), oci.MediaTypeImageManifest, jsonOf(t, map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImageManifest, "config": configDescriptor([]byte(constantConfig)), "layers": layers,
	}))
}

// layer is a signature by a key over a payload that is stored.
func (w world) layer(t *testing.T, repository string, key *Key, payload string) descriptor {
	t.Helper()
	w.PutBlob(t, repository, []byte(payload))
	made, err := key.sign(t.Context(), []byte(payload))
	require.NoError(t, err)
	return descriptor{
		MediaType: simpleSigningType, Digest: digest.FromString(payload), Size: int64(len(payload)),
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(made)},
	}
}

func TestWhatWasSignedVerifies(t *testing.T) {
	t.Parallel()
	api := []registrytest.Option{registrytest.WithReferrers(true)}
	for _, test := range []struct {
		name    string
		formats []Format
		options []registrytest.Option
	}{
		{"tag", []Format{FormatTag}, nil},
		{"referrer", []Format{FormatReferrer}, nil},
		{"both", []Format{FormatTag, FormatReferrer}, nil},
		{"tag, api", []Format{FormatTag}, api},
		{"referrer, api", []Format{FormatReferrer}, api},
		{"both, api", []Format{FormatTag, FormatReferrer}, append(api, registrytest.WithReferrersPages(1))},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{Formats: test.formats, Keys: []*Key{newKey(t), newKey(t)}, Annotations: map[string]string{"team": "web"}}, test.options...)
			index := w.PushIndex(t, "team/app", "1", "linux/amd64", "linux/arm64")
			req := Request{Reference: w.reference("team/app", "1"), Platforms: []string{"linux/amd64"}}
			_, err := w.signer.Sign(t.Context(), req)
			require.NoError(t, err)

			found, err := w.verifier(t, VerifierOptions{Formats: test.formats, Annotations: map[string]string{"team": "web"}}).Verify(t.Context(), req)
			require.NoError(t, err)
			require.True(t, found.Valid(), found)
			require.Equal(t, index.Digest, found.Digest)
			require.Len(t, found.Digests, 2)
			require.Equal(t, "linux/amd64", found.Digests[1].Platform)
			require.Len(t, found.Digests[1].Signatures, 2*len(test.formats))
			for _, d := range found.Digests {
				require.False(t, d.Hidden)
				require.Empty(t, d.Warnings)
			}

			one := VerifierOptions{Keys: []*PublicKey{w.keys[1].Public()}}
			all, _ := verdictsOf(t, w.verifier(t, one), req)
			require.Equal(t, []Verdict{Valid, Valid}, all, "either format, one of the keys")

			req.Platforms = nil
			all, reason := verdictsOf(t, w.verifier(t, one), req)
			require.Equal(t, []Verdict{Valid, Valid, NoSignature}, all)
			require.Equal(t, "no signature", reason)
		})
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, registrytest.WithLooseManifests())
	ours, other := w.keys[0], newKey(t)
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	reference := w.reference("app", "1")
	payload := func(identity, manifest string) string {
		body, err := newPayload(identity, digest.Digest(manifest), map[string]string{"team": "web"})
		require.NoError(t, err)
		return string(body)
	}
	good := payload(reference, image.Digest)
	gone := w.layer(t, "app", ours, good)
	gone.Digest = digestA
	plain := func(text string) descriptor { return w.layer(t, "app", ours, text) }
	without := plain(good)
	without.Annotations = nil
	unencoded := plain(good)
	unencoded.Annotations = map[string]string{signatureAnnotation: "?"}

	for _, test := range []struct {
		name   string
		layers []descriptor
		want   Verdict
		says   string
	}{
		{"ours", []descriptor{plain(good)}, Valid, ""},
		{"others' beside it", []descriptor{w.layer(t, "app", other, good), gone, plain(good)}, Valid, ""},
		{"of another key", []descriptor{w.layer(t, "app", other, good)}, OtherKey, "signed by another key (unknown)"},
		{"of another name", []descriptor{w.layer(t, "app", other, good), plain(payload("docker.io/library/app:1", image.Digest))}, WrongIdentity, `signed as "docker.io/library/app:1"`},
		{"of a name alone", []descriptor{plain(payload(w.Host()+"/app", image.Digest))}, WrongIdentity, "wrong identity"},
		{"of another tag", []descriptor{plain(payload(w.reference("app", "2"), image.Digest))}, WrongIdentity, "wrong identity"},
		{"of a name that is none", []descriptor{plain(payload("", image.Digest))}, WrongIdentity, `""`},
		{"of another digest", []descriptor{plain(payload(reference, digestB.String()))}, Broken, "signature of " + digestB.String()},
		{"without its payload", []descriptor{gone}, Broken, "payload cannot be read"},
		{"without a signature", []descriptor{without}, Broken, "no signature with it"},
		{"not in base64", []descriptor{unencoded}, Broken, "not in base64"},
		{"no JSON", []descriptor{plain("payload")}, Broken, "none that containers/image accepts: the payload is no JSON object"},
		{"foreign layers", []descriptor{{MediaType: "text/plain", Digest: digestA, Size: 1}}, NoSignature, "no signature"},
		{"too many", make([]descriptor, maxLayers+1), Broken, "cosign refuses more than 1000"},
	} {
		w.attach(t, "app", image.Digest, test.layers...)
		all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{}), Request{Reference: reference})
		require.Equal(t, []Verdict{test.want}, all, test.name)
		require.Contains(t, reason, test.says, test.name)
	}

	w.attach(t, "app", image.Digest, plain(good))
	for value, want := range map[string]Verdict{"web": Valid, "db": MissingAnnotation} {
		all, _ := verdictsOf(t, w.verifier(t, VerifierOptions{Annotations: map[string]string{"team": value}}), Request{Reference: reference})
		require.Equal(t, []Verdict{want}, all, value)
	}
	all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{Formats: []Format{FormatTag, FormatReferrer}}), Request{Reference: reference})
	require.Equal(t, []Verdict{NoSignature}, all)
	require.Equal(t, "referrer: no signature", reason)

	w.attach(t, "app", image.Digest, gone, plain(good))
	found, err := w.verifier(t, VerifierOptions{}).Verify(t.Context(), Request{Reference: reference})
	require.NoError(t, err)
	require.Contains(t, found.Digests[0].Warnings[0], "podman, skopeo and CRI-O do not get to the signature: the payload cannot be read")
}

// The names that are accepted are those that containers/image accepts.
func TestIdentitiesOfSignatures(t *testing.T) {
	t.Parallel()
	pin := "@" + digestA.String()
	for _, test := range []struct {
		line, exact string
		rules       []IdentityRule
		asked       string
		accepted    []string
		refused     []string
	}{
		{
			line:     "example.com/app:1",
			accepted: []string{"example.com/app:1"},
			refused:  []string{"example.com/app", "example.com/app:2", "example.com/app" + pin, "example.com/app:1" + pin, "app:1", "", "!!"},
		},
		{
			line:     "example.com/app:1" + pin, // the digest is a pin, the name is with the tag
			accepted: []string{"example.com/app:1"},
			refused:  []string{"example.com/app" + pin, "example.com/app:2"},
		},
		{
			line:     "example.com/app" + pin,
			accepted: []string{"example.com/app:1", "example.com/app" + pin, "example.com/app:1" + pin, "example.com/app@" + digestB.String()},
			refused:  []string{"example.com/app", "example.com/other:1"},
		},
		{line: "app", accepted: []string{"docker.io/library/app:latest", "app:latest"}, refused: []string{"docker.io/library/app"}},
		{
			line: "example.com/app:1", exact: "docker.io/library/app",
			accepted: []string{"app:2", "docker.io/library/app", "app" + pin},
			refused:  []string{"example.com/app:1", "docker.io/other/app:1"},
		},
		{
			line: "mirror.example.com/hub/library/app:1", rules: []IdentityRule{{"mirror.example.com/hub", "docker.io"}, {"mirror.example.com", "example.com"}},
			accepted: []string{"app:1", "example.com/hub/library/app:1"},
			refused:  []string{"mirror.example.com/hub/library/app:1", "app:2"},
		},
		{line: "example.com/app:1", asked: "example.com/name", accepted: []string{"example.com/name"}, refused: []string{"example.com/app:1", "example.com/name:1"}},
	} {
		v := &Verifier{options: VerifierOptions{ExactRepository: test.exact}}
		src, err := parseSource(Request{Reference: test.line, Identity: test.asked}, test.rules)
		require.NoError(t, err)
		for _, name := range test.accepted {
			require.True(t, v.names(src, name), "%s signed as %s", test.line, name)
		}
		for _, name := range test.refused {
			require.False(t, v.names(src, name), "%s signed as %s", test.line, name)
		}
	}
}

func TestHiddenSignatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, registrytest.WithReferrers(true))
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	req := Request{Reference: w.reference("app", "1")}
	w.signAs(t, Options{}, req)
	w.bundle(t, "app", image, signedBundle(t, newKey(t), image.Digest, func(_ *bundle, s *statement) { s.PredicateType = "https://slsa.dev/provenance/v1" }))

	found, err := w.verifier(t, VerifierOptions{}).Verify(t.Context(), req)
	require.NoError(t, err)
	require.True(t, found.Valid())
	require.True(t, found.Digests[0].Hidden, "an attestation hides it")
	require.Contains(t, found.Digests[0].Warnings[0], "from version 3")

	w.signAs(t, Options{Formats: []Format{FormatReferrer}}, req)
	found, err = w.verifier(t, VerifierOptions{}).Verify(t.Context(), req)
	require.NoError(t, err)
	require.False(t, found.Digests[0].Hidden, "a bundle of the same key is found")
	require.Empty(t, found.Digests[0].Warnings)
}

func TestWhatIsNothingToVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	index := w.PushIndex(t, "app", "1", "linux/amd64")
	_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
	require.NoError(t, err)
	v := w.verifier(t, VerifierOptions{})
	for _, req := range []Request{
		{Reference: w.reference("app", "1"), Platforms: []string{"linux/s390x"}},
		{Reference: w.reference("app", attachmentTag(digest.Digest(index.Digest)))},
	} {
		found, err := v.Verify(t.Context(), req)
		require.NoError(t, err)
		require.NotEmpty(t, found.Skipped)
		require.False(t, found.Valid())
	}
	_, err = v.Verify(t.Context(), Request{Reference: w.reference("app", "none")})
	require.ErrorIs(t, err, registry.ErrNotFound)
	_, err = v.Verify(t.Context(), Request{Reference: w.reference("app", "1"), Digest: digestA.String()})
	var mismatch *MismatchError
	require.ErrorAs(t, err, &mismatch)
	_, err = v.Verify(t.Context(), Request{Reference: w.reference("app", "1"), Keys: []string{"sha256:none"}})
	require.ErrorIs(t, err, ErrUnknownKey)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = v.Verify(ended, Request{Reference: w.reference("app", "1")})
	require.ErrorIs(t, err, context.Canceled)
}

// What the registry fails with says nothing of a signature, unless another one
// is valid.
func TestFailuresAreNoVerdicts(t *testing.T) {
	t.Parallel()
	for _, kind := range []registrytest.Match{
		{Method: http.MethodGet, Kind: registrytest.KindBlob},
		{Method: http.MethodGet, Kind: registrytest.KindReferrers},
	} {
		w := newWorld(t, Options{}, registrytest.WithReferrers(true))
		w.PushManifest(t, "app", "1", "linux/amd64")
		req := Request{Reference: w.reference("app", "1")}
		w.signAs(t, Options{}, req)
		w.Fail(kind, registrytest.Fault{Times: registrytest.Always, Status: http.StatusForbidden, Code: "DENIED"})
		found, err := w.verifier(t, VerifierOptions{}).Verify(t.Context(), req)
		if kind.Kind == registrytest.KindReferrers {
			require.NoError(t, err)
			require.True(t, found.Valid())
			require.Contains(t, found.Digests[0].Warnings[0], "whether a bundle hides the signature is not known")
			_, err = w.verifier(t, VerifierOptions{Formats: []Format{FormatReferrer}}).Verify(t.Context(), req)
		}
		var answer *registry.Error
		require.ErrorAs(t, err, &answer)
		require.Equal(t, http.StatusForbidden, answer.Status)
	}
}

// Whoever may push can put anything under the tag of the referrers. That is
// neither a failure of the registry nor a reason to doubt a valid signature.
func TestSomethingElseInThePlaceOfTheReferrers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	req := Request{Reference: w.reference("app", "1")}
	w.Put(t, "app", fallbackTagOf(digest.Digest(image.Digest)), oci.MediaTypeImageManifest, image.Body)
	all, reason := verdictsOf(t, w.verifier(t, VerifierOptions{}), req)
	require.Equal(t, []Verdict{Broken}, all)
	require.Contains(t, reason, "under the tag of its referrers")

	w.signAs(t, Options{}, req)
	found, err := w.verifier(t, VerifierOptions{}).Verify(t.Context(), req)
	require.NoError(t, err)
	require.True(t, found.Valid())
	require.Contains(t, found.Digests[0].Warnings[0], "is not known")
}

func TestVerifierOptionsAreChecked(t *testing.T) {
	t.Parallel()
	keys := []*PublicKey{newKey(t).Public()}
	for says, o := range map[string]VerifierOptions{
		"Registry":               {Keys: keys},
		"Keys":                   {Registry: &registry.Client{}},
		"neither tag":            {Registry: &registry.Client{}, Keys: keys, Formats: []Format{"sig"}},
		"skip-index":             {Registry: &registry.Client{}, Keys: keys, SkipIndex: true, Recursive: true},
		"is no repository":       {Registry: &registry.Client{}, Keys: keys, ExactRepository: "example.com/app:1"},
		"both say":               {Registry: &registry.Client{}, Keys: keys, ExactRepository: "example.com/app", Identities: []IdentityRule{{"a.b", "c.d"}}},
		"bundles name no":        {Registry: &registry.Client{}, Keys: keys, ExactRepository: "example.com/app", Formats: []Format{FormatReferrer}},
		"option Keys is empty o": {Registry: &registry.Client{}, Keys: []*PublicKey{nil}},
	} {
		_, err := NewVerifier(o)
		require.ErrorContains(t, err, says)
	}
	_, err := NewInspector(InspectorOptions{})
	require.ErrorContains(t, err, "Registry")
}
