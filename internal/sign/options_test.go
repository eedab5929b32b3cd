package sign

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
)

func TestIdentityRules(t *testing.T) {
	t.Parallel()
	rules := func(texts ...string) []IdentityRule {
		var parsed []IdentityRule
		for _, text := range texts {
			rule, err := ParseIdentityRule(text)
			require.NoError(t, err)
			parsed = append(parsed, rule)
		}
		return parsed
	}
	for _, test := range []struct {
		name  string
		req   Request
		rules []IdentityRule
		want  []string
	}{
		{"none matches", Request{Reference: "example.com/app:1"}, rules("mirror.example=example.org"), []string{"example.com/app:1"}},
		{"host", Request{Reference: "mirror.example/team/app:1"}, rules("mirror.example=example.org/public"), []string{"example.org/public/team/app:1"}},
		{"path", Request{Reference: "mirror.example/hub/library/alpine:3"}, rules("mirror.example/hub=docker.io"), []string{"docker.io/library/alpine:3"}},
		{"whole repository", Request{Reference: "mirror.example/app:1"}, rules("mirror.example/app=example.org/other"), []string{"example.org/other:1"}},
		{"whole parts only", Request{Reference: "mirror.example/apps:1"}, rules("mirror.example/app=example.org/other"), []string{"mirror.example/apps:1"}},
		{"a port is no path", Request{Reference: "mirror.example:5000/app:1"}, rules("mirror.example=example.org"), []string{"mirror.example:5000/app:1"}},
		{"several", Request{Reference: "mirror.example/app:1"}, rules("mirror.example=example.org", "mirror.example=mirror.example", "mirror.example/app=example.org/app"),
			[]string{"example.org/app:1", "mirror.example/app:1"}},
		{"digest", Request{Reference: "mirror.example/app@" + string(digestA)}, rules("mirror.example=example.org"), []string{"example.org/app@" + string(digestA)}},
		{"the request's own", Request{Reference: "mirror.example/app:1", Identity: "example.net/x:1"}, rules("mirror.example=example.org"), []string{"example.net/x:1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			src, err := parseSource(test.req, test.rules)
			require.NoError(t, err)
			require.Equal(t, test.want, src.identities)
		})
	}
	for _, text := range []string{"", "mirror.example", "=example.org", "mirror.example=", "mirror=example.org", "mirror.example/app:1=example.org", "Mirror/App=x"} {
		_, err := ParseIdentityRule(text)
		require.ErrorContains(t, err, "mirror.example.org/hub=docker.io", text)
	}
}

func TestSeveralIdentitiesAreOneWrite(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	keys := []*Key{newKey(t), newKey(t)}
	signer := signerOn(t, s, Options{Keys: keys, Identities: []IdentityRule{
		{Prefix: "example.com", Replacement: "docker.io/mirrored"}, {Prefix: "example.com", Replacement: "example.com"},
	}})
	result, err := signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Equal(t, 1, s.counts()["PUT manifest"])
	for _, identity := range []string{"docker.io/mirrored/app:1", "example.com/app:1"} {
		requireSigned(t, s, d, identity, keys...)
	}
	require.Len(t, result.Signed, 4)
	require.Equal(t, "docker.io/mirrored/app:1", result.Signed[0].Identity)
}

func TestAnnotationsAreSigned(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	claims := map[string]string{"team": "build", "commit": "abc"}
	signer := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Annotations: claims, Formats: []Format{FormatTag, FormatReferrer}})
	_, err := signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	layer := s.attachmentOf(t, d).entries[0]
	require.Contains(t, string(s.blobs[layer.Digest]), `"optional":{"commit":"abc","team":"build"}}`)
	found, err := newBundleReader(s, d, publicKeys(signer.options.Keys)).by(t.Context(), s.referrersOf(t, d), signer.options.Keys[0].Public())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, map[string]json.RawMessage{"team": json.RawMessage(`"build"`), "commit": json.RawMessage(`"abc"`)}, found[0].claims)

	for text, says := range map[string]string{"x": "key=value", "=x": "empty", "timestamp=1": "containers/image", "k=\xff": "UTF-8"} {
		_, _, err := ParseAnnotation(text)
		require.ErrorContains(t, err, says)
	}
}

func TestTimesAreRecordedWhenAsked(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	s := newStore()
	d := s.image(t, "1")
	now := at
	signer := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Timestamps: true, Formats: []Format{FormatTag, FormatReferrer}, Now: func() time.Time { return now }})
	_, err := signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)

	attached := s.attachmentOf(t, d)
	require.Equal(t, "2026-01-02T03:04:05Z", attached.entries[0].Annotations[oci.AnnotationCreated])
	var config signatureConfig
	require.NoError(t, json.Unmarshal(s.blobs[attached.config], &config))
	require.Equal(t, at.Truncate(time.Second), config.Created)
	require.Equal(t, "2026-01-02T03:04:05Z", s.referrersOf(t, d)[0].Annotations[oci.AnnotationCreated])

	s.counts()
	now = at.Add(time.Hour)
	again, err := signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Zero(t, s.counts()["PUT manifest"], "what is signed stays so")
	for _, signed := range again.Signed {
		require.True(t, signed.Already)
	}
}

// replaceWorld is an image that an old key and a third party have signed in both
// formats, the old one also for another tag.
func replaceWorld(t *testing.T, s *store, old, third *Key) digest.Digest {
	t.Helper()
	d := s.image(t, "1")
	s.manifests["2"] = s.manifests["1"]
	both := []Format{FormatTag, FormatReferrer}
	for _, key := range []*Key{old, third} {
		signer := signerOn(t, s, Options{Keys: []*Key{key}, Formats: both, ConfirmWrites: ConfirmNever})
		for _, tag := range []string{"1", "2"} {
			_, err := signer.Sign(t.Context(), Request{Reference: "example.com/app:" + tag})
			require.NoError(t, err)
		}
	}
	s.counts()
	return d
}

func TestASignatureByAnOldKeyIsReplaced(t *testing.T) {
	t.Parallel()
	for name, api := range map[string]bool{"index of referrers": false, "referrers API": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			s.api = api
			old, third, key := newKey(t), newKey(t), newKey(t)
			d := replaceWorld(t, s, old, third)
			signer := signerOn(t, s, Options{
				Keys: []*Key{key}, Replaced: []*PublicKey{old.Public()}, Formats: []Format{FormatTag, FormatReferrer}, ConfirmWrites: ConfirmNever,
			})
			_, err := signer.Sign(t.Context(), requestOne)
			require.NoError(t, err)

			requireSigned(t, s, d, "example.com/app:1", third, key)
			requireSigned(t, s, d, "example.com/app:2", third, old)
			payload, err := newPayload("example.com/app:1", d, nil)
			require.NoError(t, err)
			require.False(t, carries(s.attachmentOf(t, d), old, payload), "it says what the new one says")
			entries, err := listReferrers(t.Context(), s, d)
			require.NoError(t, err)
			requireBundles(t, s, d, entries, third, key)
			gone, err := newBundleReader(s, d, []*PublicKey{old.Public()}).by(t.Context(), entries, old.Public())
			require.NoError(t, err)
			require.Empty(t, gone)

			s.counts()
			_, err = signer.Sign(t.Context(), requestOne)
			require.NoError(t, err)
			require.Zero(t, s.counts()["PUT manifest"], "nothing is left to replace")
		})
	}
}

func TestAnImmutableAttachment(t *testing.T) {
	t.Parallel()
	refusals := map[string]*registry.Error{
		"in words":              {Method: http.MethodPut, Status: 412, Codes: []registry.Diagnostic{{Code: "PRECONDITION", Message: "configured as immutable"}}},
		"forbidden all at once": {Method: http.MethodPut, Status: 403},
	}
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			d := s.image(t, "1")
			s.foreign(d)
			refuse := func(context.Context, string, []byte) error { return refusal }
			s.onPut = refuse
			key := newKey(t)
			_, err := signerOn(t, s, Options{Keys: []*Key{key}, ConfirmWrites: ConfirmNever}).Sign(t.Context(), requestOne)
			var immutable *ImmutableError
			require.ErrorAs(t, err, &immutable)

			s.onPut = refuse
			result, err := signerOn(t, s, Options{Keys: []*Key{key}, ConfirmWrites: ConfirmNever, ImmutableFallback: true}).Sign(t.Context(), requestOne)
			require.NoError(t, err)
			require.Equal(t, string(FormatReferrer), result.Signed[0].Format)
			requireBundles(t, s, d, s.referrersOf(t, d), key)
			require.Equal(t, cosignAttachment, string(s.manifests[attachmentTag(d)].Body))
		})
	}
}

// A write that is forbidden where there is no tag yet is only that.
func TestForbiddenIsNotImmutable(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.image(t, "1")
	s.onPut = func(context.Context, string, []byte) error {
		return &registry.Error{Method: http.MethodPut, Status: 403}
	}
	_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, ImmutableFallback: true}).Sign(t.Context(), requestOne)
	var immutable *ImmutableError
	require.Error(t, err)
	require.NotErrorAs(t, err, &immutable)
}

func TestARegistryThatWantsAConfigOfItsOwnForEachAttachment(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	refuse := func(context.Context, string, []byte) error {
		return &registry.Error{Method: http.MethodPut, Status: 400, Codes: []registry.Diagnostic{{Code: "MANIFEST_INVALID"}}}
	}
	s.onPut = refuse
	first, second := newKey(t), newKey(t)
	for _, key := range []*Key{first, second} {
		_, err := signerOn(t, s, Options{Keys: []*Key{key}, ConfirmWrites: ConfirmNever}).Sign(t.Context(), requestOne)
		require.NoError(t, err)
	}
	require.True(t, s.fullConfig, "remembered")
	require.Equal(t, 3, s.counts()["PUT manifest"], "the second signature is not refused first")
	requireSigned(t, s, d, "example.com/app:1", first, second)
	attached := s.attachmentOf(t, d)
	var config oci.Image
	require.NoError(t, json.Unmarshal(s.blobs[attached.config], &config))
	require.Equal(t, []digest.Digest{attached.entries[0].Digest, attached.entries[1].Digest}, config.RootFS.DiffIDs)
	require.Len(t, config.History, 2)
}

func TestHiddenSignaturesAreReported(t *testing.T) {
	t.Parallel()
	for name, api := range map[string]bool{"index of referrers": false, "referrers API": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			s.api = api
			s.image(t, "1")
			sign := func(o Options) Signature {
				o.ConfirmWrites = ConfirmNever
				if o.Keys == nil {
					o.Keys = []*Key{newKey(t)}
				}
				result, err := signerOn(t, s, o).Sign(t.Context(), requestOne)
				require.NoError(t, err)
				return result.Signed[0]
			}
			require.False(t, sign(Options{ReportHidden: true}).Hidden)
			bundled := []*Key{newKey(t)}
			sign(Options{Formats: []Format{FormatReferrer}, Keys: bundled})
			require.True(t, sign(Options{ReportHidden: true}).Hidden)
			require.False(t, sign(Options{ReportHidden: true, Formats: []Format{FormatTag, FormatReferrer}}).Hidden, "its own bundle is seen")
			require.False(t, sign(Options{ReportHidden: true, Keys: bundled}).Hidden, "its own bundle was there before")
		})
	}
}

func TestEverythingInAnIndexIsSigned(t *testing.T) {
	t.Parallel()
	s := newStore()
	a := s.image(t, "a")
	manifest := oci.Descriptor{MediaType: oci.MediaTypeImageManifest, Digest: a, Size: 1, Platform: &oci.Platform{OS: "linux", Architecture: "s390x"}}
	attestation := oci.Descriptor{MediaType: oci.MediaTypeImageManifest, Digest: digestA, Size: 1, Platform: &oci.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{referenceTypeAnnotation: "attestation-manifest"}}
	inner := s.put("inner", oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex, Manifests: []oci.Descriptor{manifest, manifest}}))
	index := s.put("1", oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex, Manifests: []oci.Descriptor{
		{MediaType: oci.MediaTypeImageIndex, Digest: inner, Size: 1}, attestation,
	}}))
	result, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Recursive: true}).Sign(t.Context(), Request{Reference: "example.com/app:1", Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	var signed []string
	for _, one := range result.Signed {
		signed = append(signed, one.Digest)
	}
	require.Equal(t, []string{index.String(), inner.String(), a.String(), digestA.String()}, signed)
}

// Indexes inside indexes are held all at once, so there is an end to them.
func TestIndexesInsideEachOtherHaveAnEnd(t *testing.T) {
	t.Parallel()
	s := newStore()
	inner := s.image(t, "image")
	kind := oci.MediaTypeImageManifest
	for range maxDepth + 1 {
		inner = s.put("1", oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex, Manifests: []oci.Descriptor{{MediaType: kind, Digest: inner, Size: 1}}}))
		kind = oci.MediaTypeImageIndex
	}
	_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Recursive: true}).Sign(t.Context(), requestOne)
	var unsupported *UnsupportedError
	require.ErrorAs(t, err, &unsupported)
	require.ErrorContains(t, err, "inside each other")
}
