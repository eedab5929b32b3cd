package sign

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func (w world) inspector(t *testing.T, o InspectorOptions) *Inspector {
	t.Helper()
	o.Registry = newClient(t, registry.Options{})
	i, err := NewInspector(o)
	require.NoError(t, err)
	return i
}

func TestAnImageIsShownWithItsSignatures(t *testing.T) {
	t.Parallel()
	for _, options := range [][]registrytest.Option{nil, {registrytest.WithReferrers(true)}} {
		w := newWorld(t, Options{Keys: []*Key{newKey(t), newKey(t)}, Annotations: map[string]string{"team": "web"}}, options...)
		index := w.PushIndex(t, "app", "1", "linux/amd64", "linux/arm64")
		req := Request{Reference: w.reference("app", "1"), Platforms: []string{"linux/amd64"}}
		_, err := w.signer.Sign(t.Context(), req)
		require.NoError(t, err)
		w.signAs(t, Options{Keys: w.keys[:1], Formats: []Format{FormatReferrer}}, req)

		found, err := w.inspector(t, InspectorOptions{}).Inspect(t.Context(), Request{Reference: req.Reference})
		require.NoError(t, err)
		require.Equal(t, index.Digest, found.Digest)
		require.Equal(t, oci.MediaTypeImageIndex, found.MediaType)
		require.Empty(t, found.NotSigned)
		require.Len(t, found.Digests, 3)
		require.Equal(t, []string{"index", "linux/amd64", "linux/arm64"}, []string{found.Digests[0].Platform, found.Digests[1].Platform, found.Digests[2].Platform})
		require.Empty(t, found.Digests[2].Signatures)
		require.NotNil(t, found.Digests[2].Signatures)
		require.Len(t, found.Digests[1].Signatures, 3)
		_, attached, ok := w.Get("app", attachmentTag(digest.Digest(found.Digests[1].Digest)))
		require.True(t, ok)
		for _, f := range found.Digests[1].Signatures[:2] {
			require.Equal(t, Found{Format: FormatTag, Attachment: digest.FromBytes(attached).String(), Identity: req.Reference,
				Annotations: map[string]string{"team": "web"}, Hidden: true, claimed: true}, f, "nobody's key is known")
		}
		bundle := found.Digests[1].Signatures[2]
		require.Equal(t, FormatReferrer, bundle.Format)
		require.Equal(t, w.keys[0].Fingerprint(), bundle.Key)
		require.False(t, bundle.Verified, "that is what it claims")

		found, err = w.inspector(t, InspectorOptions{Keys: []*PublicKey{w.keys[1].Public(), w.keys[0].Public()}}).Inspect(t.Context(), req)
		require.NoError(t, err)
		require.Len(t, found.Digests, 2)
		for n, f := range found.Digests[1].Signatures {
			require.True(t, f.Verified)
			require.Equal(t, w.keys[n%2].Fingerprint(), f.Key)
			require.Equal(t, n == 1, f.Hidden, "the first key has a bundle too")
		}
	}
}

// Nothing that is broken keeps the rest from being shown.
func TestWhatIsBrokenIsShownAsSuch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, registrytest.WithLooseManifests(), registrytest.WithReferrers(true))
	image := w.PushIndex(t, "app", "1", "linux/amd64")
	reference := w.reference("app", "1")
	good, err := newPayload(reference, digest.Digest(image.Digest), nil)
	require.NoError(t, err)
	gone := w.layer(t, "app", w.keys[0], string(good))
	gone.Digest = digestA
	w.attach(t, "app", image.Digest, gone, w.layer(t, "app", w.keys[0], string(good)), w.layer(t, "app", w.keys[0], "[]"))
	w.Put(t, "app", attachmentTag(digest.Digest(image.Children[0].Digest)), oci.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))
	w.bundle(t, "app", image, "no bundle")
	w.bundle(t, "app", image, signedBundle(t, w.keys[0], image.Digest, func(_ *bundle, s *statement) { s.PredicateType = "https://slsa.dev/provenance/v1" }))
	keys := []*PublicKey{w.keys[0].Public()}

	found, err := w.inspector(t, InspectorOptions{Keys: keys}).Inspect(t.Context(), Request{Reference: reference})
	require.NoError(t, err)
	all := found.Digests[0].Signatures
	require.Len(t, all, 5)
	require.Contains(t, all[0].Problem, "payload cannot be read")
	require.Empty(t, all[1].Problem)
	require.True(t, all[1].Verified)
	require.False(t, all[1].Hidden, "to cosign the attestation is a signature by the same key")
	require.Contains(t, all[2].Problem, "no JSON object")
	require.True(t, all[2].Verified, "its key is known all the same")
	texts := all[3].Problem + all[4].Problem + all[3].Attests + all[4].Attests
	require.Contains(t, texts, "not the JSON it should be")
	require.Contains(t, texts, "https://slsa.dev/provenance/v1")
	require.Len(t, found.Digests[1].Signatures, 1)
	require.Contains(t, found.Digests[1].Signatures[0].Problem, "is under the tag")

	w.Fail(registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindReferrers}, registrytest.Fault{Times: registrytest.Always, Status: http.StatusUnauthorized})
	found, err = w.inspector(t, InspectorOptions{}).Inspect(t.Context(), Request{Reference: reference})
	require.NoError(t, err)
	require.Len(t, found.Digests[0].Signatures, 4)
	require.Contains(t, found.Digests[0].Signatures[3].Problem, "list of referrers cannot be read")
	require.Empty(t, found.Digests[0].Signatures[3].Attachment)
}

func TestSignaturesInADockerManifestAreShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/arm/v7")
	req := Request{Reference: w.reference("app", "1")}
	w.signAs(t, Options{}, req)
	tag := attachmentTag(digest.Digest(image.Digest))
	_, body, ok := w.Get("app", tag)
	require.True(t, ok)
	w.Put(t, "app", tag, dockerManifest, []byte(strings.Replace(string(body), oci.MediaTypeImageManifest, dockerManifest, 1)))
	keys := []*PublicKey{w.keys[0].Public()}
	found, err := w.inspector(t, InspectorOptions{Keys: keys}).Inspect(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, "linux/arm/v7", found.Digests[0].Platform, "which stands in its config")
	only := found.Digests[0].Signatures[0]
	require.True(t, only.Verified)
	require.Equal(t, "the attachment is of Docker's media type", only.Problem)
}

// Others sign what we do not.
func TestWhatIsNoImageIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	chart := w.Put(t, "chart", "1", oci.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"mediaType":"`+oci.MediaTypeImageManifest+`",
		"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"`+w.PutBlob(t, "chart", []byte("{}"))+`","size":2},"layers":[]}`))
	payload, err := newPayload(w.reference("chart", "1"), digest.Digest(chart), nil)
	require.NoError(t, err)
	w.attach(t, "chart", chart, w.layer(t, "chart", w.keys[0], string(payload)))
	found, err := w.inspector(t, InspectorOptions{}).Inspect(t.Context(), Request{Reference: w.reference("chart", "1")})
	require.NoError(t, err)
	require.Contains(t, found.NotSigned, "not an image")
	require.Len(t, found.Digests, 1)
	require.Len(t, found.Digests[0].Signatures, 1)

	// An image whose config is gone has signatures too.
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	w.signAs(t, Options{}, Request{Reference: w.reference("app", "1")})
	w.Fail(registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindBlob}, registrytest.Fault{Status: http.StatusNotFound})
	found, err = w.inspector(t, InspectorOptions{}).Inspect(t.Context(), Request{Reference: w.reference("app", "1")})
	require.NoError(t, err)
	require.Equal(t, image.Digest, found.Digests[0].Digest)
	require.Empty(t, found.Digests[0].Platform)
	require.Len(t, found.Digests[0].Signatures, 1)
}

func TestTheManifestAsItIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	w.signAs(t, Options{}, Request{Reference: w.reference("app", "1")})
	i := w.inspector(t, InspectorOptions{})
	for _, tag := range []string{"1", attachmentTag(digest.Digest(image.Digest))} {
		_, body, ok := w.Get("app", tag)
		require.True(t, ok)
		raw, err := i.Raw(t.Context(), w.reference("app", tag))
		require.NoError(t, err)
		require.Equal(t, string(body), string(raw))
	}
	_, err := i.Raw(t.Context(), w.reference("app", "1")+"@"+digestA.String())
	var mismatch *MismatchError
	require.ErrorAs(t, err, &mismatch)
}

// What somebody has attached is looked at up to a bound, and it is said when
// there is more.
func TestWhatIsLookedAtHasABound(t *testing.T) {
	t.Parallel()
	s := newStore()
	image := s.image(t, "1")
	var entries []oci.Descriptor
	for n := range maxReferrers + 5 {
		entries = append(entries, oci.Descriptor{MediaType: oci.MediaTypeImageManifest, Digest: digest.FromString(strings.Repeat("x", n)), Size: 1})
	}
	entries = append(entries, entries...)
	s.put(fallbackTagOf(image), oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex, Manifests: entries}))
	all, err := newFinder(s, nil, nil).find(t.Context(), image)
	require.NoError(t, err)
	require.Len(t, all, 1, "entries that lead nowhere are none")
	require.Equal(t, "there are 1005 referrers, of which the first 1000 were looked at", all[0].Problem)
	require.Equal(t, 2+maxReferrers, s.counts()["GET manifest"])

	f := newFinder(s, nil, nil)
	f.left.Store(3)
	all, err = f.find(t.Context(), image)
	require.NoError(t, err)
	require.Contains(t, all[0].Problem, "more than the 20000 signatures that are looked at")
	require.Equal(t, 2+3, s.counts()["GET manifest"])
}

func TestAnnotationsAreCut(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", maxShownAnnotations)
	claim, err := readPayload(jsonOf(t, map[string]any{
		"critical": map[string]any{"type": payloadType, "identity": map[string]any{"docker-reference": long}, "image": map[string]any{"docker-manifest-digest": digestA}},
		"optional": map[string]any{"a": "b", "b": []int{1}, "c": long},
	}))
	require.NoError(t, err)
	found := Found{}.claiming(claim.annotations, map[string]string{"c": long})
	require.True(t, found.claimed, "though it is not shown")
	require.Equal(t, map[string]string{"a": "b", "b": "[1]"}, found.Annotations)
	require.True(t, found.AnnotationsCut)
	require.Len(t, shown(claim.identity), maxShownIdentity+len("…"))
	require.False(t, Found{}.claiming(claim.annotations, map[string]string{"b": "[1]"}).claimed, "that is no text")
}
