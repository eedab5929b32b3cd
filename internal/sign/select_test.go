package sign

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// child is an entry of an index, whose digest is made of its letter.
func child(letter, platform string) oci.Descriptor {
	d := oci.Descriptor{MediaType: oci.MediaTypeImageManifest, Digest: digest.Digest("sha256:" + strings.Repeat(letter, 64)), Size: 1}
	if parts := strings.Split(platform+"//", "/"); platform != "" {
		d.Platform = &oci.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	}
	return d
}

func edit(d oci.Descriptor, change func(*oci.Descriptor)) oci.Descriptor {
	change(&d)
	return d
}

func TestSelectionFromAnIndex(t *testing.T) {
	t.Parallel()
	attestation := edit(child("e", "unknown/unknown"), func(d *oci.Descriptor) {
		d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	})
	attestationOfAPlatform := edit(child("e", "linux/amd64"), func(d *oci.Descriptor) {
		d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	})
	nested := edit(child("d", "linux/arm64"), func(d *oci.Descriptor) { d.MediaType = oci.MediaTypeImageIndex })
	artifact := edit(child("f", ""), func(d *oci.Descriptor) { d.ArtifactType = "application/example" })
	foreign := edit(child("f", "linux/amd64"), func(d *oci.Descriptor) { d.MediaType = "application/example" })

	for _, test := range []struct {
		name     string
		children []oci.Descriptor
		wanted   []string
		noIndex  bool
		tag      string
		want     string // platforms and letters, or the reason to skip
	}{
		{name: "all", children: []oci.Descriptor{child("a", "linux/amd64"), child("b", "windows/amd64")}, want: "index linux/amd64=a windows/amd64=b"},
		{name: "filtered", children: []oci.Descriptor{child("a", "linux/amd64"), child("b", "linux/s390x")}, wanted: []string{"linux/amd64", "linux/arm64"}, want: "index linux/amd64=a"},
		{name: "without the index", children: []oci.Descriptor{child("a", "linux/amd64")}, noIndex: true, want: "linux/amd64=a"},
		{name: "nothing matches", children: []oci.Descriptor{child("a", "linux/s390x")}, wanted: []string{"linux/amd64"}, want: "no platform of the index matches linux/amd64"},
		{name: "attestations", children: []oci.Descriptor{child("a", "linux/amd64"), attestation, attestationOfAPlatform}, want: "index linux/amd64=a"},
		{name: "unknown platform alone", children: []oci.Descriptor{child("a", "unknown/unknown")}, want: "the index holds no image"},
		{name: "empty", want: "the index holds no image"},
		{name: "variants", children: []oci.Descriptor{child("a", "linux/arm/v6"), child("b", "linux/arm/v7")}, wanted: []string{"linux/arm/v7"}, want: "index linux/arm/v7=b"},
		{name: "one manifest for two platforms", children: []oci.Descriptor{child("a", "linux/arm/v6"), child("a", "linux/arm/v7")}, want: "index linux/arm/v6=a"},
		{name: "nested index", children: []oci.Descriptor{nested}, wanted: []string{"linux/arm64"}, want: "index linux/arm64=d"},
		{name: "no platform said, all wanted", children: []oci.Descriptor{child("a", "")}, want: "index =a"},
		{name: "no platform said, and not there to be asked", children: []oci.Descriptor{child("a", "")}, wanted: []string{"*/*"}, want: "no platform of the index matches */*"},
		{name: "artifacts", children: []oci.Descriptor{artifact, foreign}, want: "the index holds no image"},
		{name: "referrers", children: []oci.Descriptor{child("a", "")}, tag: "sha256-" + hexA, want: "an index of referrers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			tag := test.tag
			if tag == "" {
				tag = "1"
			}
			s.put(tag, oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex, Manifests: append([]oci.Descriptor{}, test.children...)}))
			require.Equal(t, test.want, selectionOf(t, s, tag, test.wanted, test.noIndex))
		})
	}
}

// selectionOf is the selection in short.
func selectionOf(t *testing.T, s *store, tag string, wanted []string, skipIndex bool) string {
	t.Helper()
	img, err := resolve(t.Context(), s, source{given: tag, lookup: tag})
	require.NoError(t, err)
	filters, err := parsePlatforms(wanted)
	require.NoError(t, err)
	chosen, err := selectTargets(t.Context(), s, img, filters, extent{skipIndex: skipIndex})
	require.NoError(t, err)
	if chosen.skipped != "" {
		require.Empty(t, chosen.targets)
		return chosen.skipped
	}
	var short []string
	for _, target := range chosen.targets {
		if target.platform == indexPlatform {
			require.Equal(t, img.digest, target.digest)
			short = append(short, "index")
			continue
		}
		short = append(short, target.platform+"="+target.digest.Encoded()[:1])
	}
	return strings.Join(short, " ")
}

const ociConfig = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":2}`

func TestOnlyImagesAreSigned(t *testing.T) {
	t.Parallel()
	withLayer := func(mediaType string) string {
		return `{` + ociConfig + `,"layers":[{"mediaType":"` + mediaType + `","digest":"` + string(digestA) + `","size":1}]}`
	}
	for _, test := range []struct {
		name, mediaType, body, want string
	}{
		{"subject", oci.MediaTypeImageManifest, `{` + ociConfig + `,"layers":[],"subject":{"digest":"` + string(digestA) + `"}}`, "subject"},
		{"index with a subject", oci.MediaTypeImageIndex, `{"manifests":[],"subject":{"digest":"` + string(digestA) + `"}}`, "subject"},
		{"artifact type", oci.MediaTypeImageManifest, `{` + ociConfig + `,"layers":[],"artifactType":"application/example"}`, `artifact of type "application/example"`},
		{"helm chart", oci.MediaTypeImageManifest, `{"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"},"layers":[]}`, "helm"},
		{"signature", oci.MediaTypeImageManifest, withLayer(simpleSigningType), "an attachment"},
		{"bundle", oci.MediaTypeImageManifest, withLayer("application/vnd.dev.sigstore.bundle.v0.3+json"), "an attachment"},
		{"attestation", oci.MediaTypeImageManifest, withLayer("application/vnd.dsse.envelope.v1+json"), "an attachment"},
		{"buildkit's attestation", oci.MediaTypeImageManifest, withLayer("application/vnd.in-toto+json"), "an attachment"},
		{"bill of materials", oci.MediaTypeImageManifest, withLayer("text/spdx+json"), "an attachment"},
		{"encrypted layers are an image's", oci.MediaTypeImageManifest, withLayer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), ""},
		{"null subject is none", oci.MediaTypeImageManifest, `{` + ociConfig + `,"layers":[],"subject":null}`, ""},
		{"Docker image", dockerManifest, `{"config":{"mediaType":"application/vnd.docker.container.image.v1+json"},"layers":[]}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			s.put("1", test.mediaType, []byte(test.body))
			img, err := resolve(t.Context(), s, source{given: "app:1", lookup: "1"})
			require.NoError(t, err)
			chosen, err := selectTargets(t.Context(), s, img, nil, extent{})
			require.NoError(t, err)
			if test.want == "" {
				require.Empty(t, chosen.skipped)
				require.Equal(t, []target{img.target("")}, chosen.targets)
				return
			}
			require.Contains(t, chosen.skipped, test.want)
			require.Empty(t, chosen.targets)
		})
	}
}

func TestASingleImageIsReadForItsPlatformOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	whole := func(platform string) target {
		return target{digest: d, platform: platform, mediaType: oci.MediaTypeImageManifest, size: int64(len(s.manifests["1"].Body))}
	}
	for _, test := range []struct {
		wanted []string
		want   []target
		skip   string
		blobs  int
	}{
		{nil, []target{whole("")}, "", 0},
		{[]string{"linux/amd64"}, []target{whole("linux/amd64")}, "", 1},
		{[]string{"linux/arm64"}, nil, `its platform "linux/amd64" matches none of linux/arm64`, 1},
	} {
		s.counts()
		img, err := resolve(t.Context(), s, source{given: "app:1", lookup: "1"})
		require.NoError(t, err)
		filters, err := parsePlatforms(test.wanted)
		require.NoError(t, err)
		chosen, err := selectTargets(t.Context(), s, img, filters, extent{})
		require.NoError(t, err)
		require.Equal(t, selection{targets: test.want, skipped: test.skip}, chosen)
		require.Equal(t, test.blobs, s.counts()["GET blob"])
	}
}

func TestWhatNobodyCanSign(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, mediaType, body string }{
		{"schema 1", dockerSchema1, `{"schemaVersion":1}`},
		{"signed schema 1", dockerSchema1JWS, `{"schemaVersion":1}`},
		{"unknown", "application/example", `{}`},
		{"not JSON", oci.MediaTypeImageIndex, `hello`},
		{"two types", oci.MediaTypeImageIndex, `{"mediaType":"` + oci.MediaTypeImageManifest + `","manifests":[]}`},
		{"both kinds", oci.MediaTypeImageManifest, `{` + ociConfig + `,"layers":[],"manifests":[]}`},
		{"index with layers", oci.MediaTypeImageIndex, `{"layers":[]}`},
		{"manifest of children", oci.MediaTypeImageManifest, `{"manifests":[]}`},
		{"no config", oci.MediaTypeImageManifest, `{"layers":[]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			s.put("1", test.mediaType, []byte(test.body))
			_, err := resolve(t.Context(), s, source{given: "app:1", lookup: "1"})
			var unsupported *UnsupportedError
			require.ErrorAs(t, err, &unsupported)
			require.Equal(t, test.mediaType, unsupported.MediaType)
			require.ErrorContains(t, err, "app:1")
		})
	}
}

func TestAPinIsHeldAgainstTheImage(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	body := s.manifests["1"].Body
	for _, pin := range []digest.Digest{d, digest.SHA512.FromBytes(body)} {
		_, err := resolve(t.Context(), s, source{given: "app:1", lookup: "1", pins: []digest.Digest{pin}})
		require.NoError(t, err)
	}
	_, err := resolve(t.Context(), s, source{given: "app:1", lookup: "1", pins: []digest.Digest{digestB}})
	var mismatch *MismatchError
	require.ErrorAs(t, err, &mismatch)
	require.Equal(t, &MismatchError{Reference: "app:1", Pinned: digestB, Found: d}, mismatch)
}

func TestImagesThatCannotBeSignedAsAWhole(t *testing.T) {
	t.Parallel()
	long := edit(child("b", "linux/amd64"), func(d *oci.Descriptor) { d.Digest = digest.SHA512.FromString("b") })
	named := child("b", "linux/"+strings.Repeat("x", maxPlatform))
	many := make([]oci.Descriptor, 0, maxSignatures/2)
	for i := range cap(many) {
		d := child("a", "linux/amd64")
		d.Digest = digest.FromString(fmt.Sprint(i))
		many = append(many, d)
	}
	for says, children := range map[string][]oci.Descriptor{
		"only sha256 digests can be signed":                          {child("a", "linux/arm64"), long},
		"has a name of more than":                                    {named},
		"1001 manifests with 2 signatures each are more than the 20": many,
	} {
		s := newStore()
		index := s.put("1", oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex, Manifests: children}))
		result, err := signerOn(t, s, Options{Keys: []*Key{newKey(t), newKey(t)}}).Sign(t.Context(), requestOne)
		var unsupported *UnsupportedError
		require.ErrorAs(t, err, &unsupported)
		require.ErrorContains(t, err, "example.com/app:1 cannot be signed: ")
		require.ErrorContains(t, err, says)
		require.Equal(t, Result{Digest: index.String(), Timings: result.Timings}, result)
		require.Equal(t, map[string]int{"GET manifest": 1}, s.counts(), "nothing is signed in part")
	}

	most := slices.Repeat([]target{{digest: digestA}}, maxSignatures/2)
	require.NoError(t, checkTargets(resolved{}, most, 2))
}

func TestAnImageAskedForByAnotherDigestThanSHA256(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	mediaType, body, _ := w.Get("app", image.Digest)
	w.Fail(registrytest.Match{Kind: registrytest.KindManifest}, registrytest.Fault{Status: 200, ContentType: mediaType, Body: string(body)})
	_, err := w.signer.Sign(t.Context(), Request{Reference: w.Host() + "/app@" + digest.SHA512.FromBytes(body).String()})
	var unsupported *UnsupportedError
	require.ErrorAs(t, err, &unsupported)
	require.ErrorContains(t, err, "only sha256 digests can be signed")
	require.Equal(t, map[string]int{"GET manifest": 1}, w.Counts())
}

func TestTextsOfARegistryAreBounded(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.put("1", oci.MediaTypeImageManifest, []byte(`{`+ociConfig+`,"artifactType":"`+strings.Repeat("x", 1<<20)+`"}`))
	result, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Less(t, len(result.Skipped), 200)
}
