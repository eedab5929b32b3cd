package sign

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
)

// What a parser reads comes from whoever can push to a repository: it may say
// anything, and must neither end the process nor take more than was sent.

func FuzzBundle(f *testing.F) {
	key, err := newMemoryKey(rfcKey(f))
	require.NoError(f, err)
	good, err := newBundle(f.Context(), key, digestA, map[string]string{"team": "web"})
	require.NoError(f, err)
	for _, seed := range []string{
		string(good),
		strings.Replace(string(good), "v0.3", "v0.2", 1),
		strings.Replace(string(good), `{"sig":`, `{"keyid":"a","sig":`, 1),
		`{"mediaType":"` + bundleType + `","verificationMaterial":{"certificate":{"rawBytes":"MAA="}},"messageSignature":{"signature":"MAA="}}`,
		`{"mediaType":"` + bundleType + `","dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":""}]}}`,
		`{"mediaType":"` + bundleType + `","dsseEnvelope":{"payload":"bnVsbA==","payloadType":"application/vnd.in-toto+json","signatures":[{}]}}`,
		`null`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		finder := &finder{keys: []*PublicKey{key.Public()}}
		read, err := parseBundle(body)
		if err != nil {
			return
		}
		require.True(t, read.counts)
		found := finder.statement(Found{Format: FormatReferrer, Key: claimedKey(read.hint)}, read, digestA)
		if found.Verified && found.Problem == "" {
			require.NoError(t, read.verifiedBy(key.Public(), digestA))
			require.Equal(t, key.Fingerprint(), found.Key)
		}
		requireBounded(t, found, len(body))
	})
}

func FuzzPayload(f *testing.F) {
	good, err := newPayload("registry.example.com/team/app:1.0", digestA, map[string]string{"team": "web"})
	require.NoError(f, err)
	for _, seed := range []string{
		string(good),
		strings.Replace(string(good), `{"team":"web"}`, "null", 1),
		strings.Replace(string(good), `{"team":"web"}`, `{"creator":"me","timestamp":1700000000,"a":{"b":[1,null]},"c":""}`, 1),
		strings.Replace(string(good), `"critical"`, `"critical":{},"critical"`, 1),
		`{"critical":null,"optional":null}`, `{}`, `null`, `{"a"`, ``, strings.Repeat(`{"a":`, 100),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		claim, err := readPayload(body)
		if err != nil {
			require.Empty(t, claim)
			return
		}
		require.NoError(t, claim.manifest.Validate())
		requireBounded(t, Found{Identity: shown(claim.identity)}.claiming(claim.annotations, map[string]string{"team": "web"}), len(body))
		// It says the same to who reads it less strictly.
		var loose simpleSigning
		require.NoError(t, json.Unmarshal(body, &loose))
		require.Equal(t, claim.identity, loose.Critical.Identity.DockerReference)
		require.Equal(t, claim.manifest, loose.Critical.Image.DockerManifestDigest)
	})
}

func requireBounded(t *testing.T, found Found, size int) {
	t.Helper()
	require.LessOrEqual(t, len(found.Identity), maxShownIdentity+len("…"))
	total := 0
	for key, value := range found.Annotations {
		total += len(key) + len(value)
	}
	require.LessOrEqual(t, total, maxShownAnnotations)
	text, err := json.Marshal(found)
	require.NoError(t, err)
	require.LessOrEqual(t, len(text), 6*(maxShownIdentity+maxShownAnnotations)+6*size+1024)
}

func FuzzAttachment(f *testing.F) {
	for _, seed := range []string{
		cosignAttachment,
		strings.Replace(cosignAttachment, "MEUCIQ==", "?", 1),
		strings.Replace(cosignAttachment, `"annotations"`, `"other"`, 1),
		strings.Replace(cosignAttachment, `"layers":[`, `"layers":[{},`, 1),
		`{"layers":[],"config":{}}`, `{"layers":null,"config":{}}`, `{"layers":{}}`, `{"layers":[`, `[]`, ``,
		`{"schemaVersion":2,"manifests":[{"digest":"` + digestA.String() + `"}]}`,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	ours := signatureLayer([]byte("payload"), []byte("signature"), unrecordedTime)
	key, err := newMemoryKey(rfcKey(f))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, body []byte, docker bool) {
		around := registry.Manifest{MediaType: oci.MediaTypeImageManifest, Digest: digest.FromBytes(body), Body: body}
		if docker {
			around.MediaType = dockerManifest
		}
		s := newStore()
		s.manifests[attachmentTag(digestA)] = around
		all := newFinder(s, []*PublicKey{key.Public()}, nil).tagged(t.Context(), digestA)
		for _, found := range all {
			require.Equal(t, FormatTag, found.Format)
			requireBounded(t, found, len(body))
		}
		read, err := readAttachment("test", around)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(all), max(1, len(read.entries)))
		// What can be read can be added to, without loss.
		merged, err := read.with("test", change{add: []descriptor{ours}})
		require.NoError(t, err)
		again, err := readAttachment("test", registry.Manifest{MediaType: around.MediaType, Body: merged})
		require.NoError(t, err, string(merged))
		require.Len(t, again.entries, len(read.entries)+1)
		require.True(t, again.lists(ours.Digest))
	})
}

func FuzzReferrersIndex(f *testing.F) {
	for _, seed := range []string{
		`{"schemaVersion":2,"mediaType":"` + oci.MediaTypeImageIndex + `","manifests":[{"mediaType":"` + oci.MediaTypeImageManifest + `","size":1,"digest":"` + digestA.String() + `","artifactType":"` + bundleType + `"}]}`,
		`{"manifests":[{},{"digest":"../../evil"},{"digest":"` + digestB.String() + `"},{"digest":"` + digestB.String() + `"}]}`,
		`{"manifests":null}`, `{"manifests":[`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := newStore()
		s.manifests[fallbackTagOf(digestA)] = registry.Manifest{MediaType: oci.MediaTypeImageIndex, Digest: digest.FromBytes(body), Body: body}
		all, bundled := newFinder(s, nil, nil).referring(t.Context(), digestA)
		require.False(t, bundled, "nothing of what is listed is there")
		require.LessOrEqual(t, len(all), maxReferrers+1)
		for reference := range s.counts() {
			require.Equal(t, "GET manifest", reference)
		}
	})
}

func FuzzImage(f *testing.F) {
	platform := `"platform":{"os":"linux","architecture":"arm","variant":"v7"}`
	entry := `{"mediaType":"` + oci.MediaTypeImageManifest + `","size":1,"digest":"` + digestA.String() + `",` + platform + `}`
	for _, seed := range []struct{ mediaType, body string }{
		{oci.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"` + oci.MediaTypeImageIndex + `","manifests":[` + entry + `,` + entry + `]}`},
		{dockerManifestList, `{"manifests":[` + strings.Replace(entry, platform, `"annotations":{"vnd.docker.reference.type":"a"}`, 1) + `]}`},
		{oci.MediaTypeImageIndex, `{"manifests":[{"mediaType":"` + oci.MediaTypeImageIndex + `","size":1,"digest":"` + digestB.String() + `"}]}`},
		{oci.MediaTypeImageIndex, `{"manifests":[{"mediaType":"` + oci.MediaTypeImageManifest + `","digest":"sha512:a"},{"platform":null}]}`},
		{oci.MediaTypeImageManifest, `{"config":{"mediaType":"` + oci.MediaTypeImageConfig + `","digest":"` + digestA.String() + `","size":2},"layers":[]}`},
		{dockerManifest, `{"config":{"mediaType":"` + dockerImageConfig + `"},"layers":[{"mediaType":"` + simpleSigningType + `"}]}`},
		{oci.MediaTypeImageManifest, `{"config":null,"manifests":[]}`},
		{oci.MediaTypeImageManifest, `{"config":{},"subject":{},"artifactType":"a"}`},
		{dockerSchema1, `{}`}, {"", ``}, {oci.MediaTypeImageIndex, `null`},
	} {
		f.Add(seed.mediaType, []byte(seed.body), "linux/arm")
		f.Add(seed.mediaType, []byte(seed.body), "")
	}
	f.Fuzz(func(t *testing.T, mediaType string, body []byte, filter string) {
		s := newStore()
		s.put("1", mediaType, body)
		var filters []string
		if filter != "" {
			filters = []string{filter}
		}
		wanted, err := parsePlatforms(filters)
		if err != nil {
			return
		}
		img, err := resolve(context.WithoutCancel(t.Context()), s, source{given: "1", lookup: "1"})
		if err != nil {
			return
		}
		for _, e := range []extent{{}, {skipIndex: true}, {recursive: true}} {
			chosen, err := selectTargets(t.Context(), s, img, wanted, e)
			if err != nil {
				require.Empty(t, chosen.targets)
				continue
			}
			require.Equal(t, chosen.skipped == "", len(chosen.targets) > 0)
			require.LessOrEqual(t, len(chosen.targets), 2+len(img.content.Manifests))
			if checkTargets(img, chosen.targets, 1) != nil {
				continue
			}
			seen := map[digest.Digest]bool{}
			for _, to := range chosen.targets {
				require.NoError(t, to.digest.Validate())
				require.False(t, seen[to.digest], "each has one attachment")
				require.LessOrEqual(t, len(to.platform), maxPlatform)
				seen[to.digest] = true
			}
		}
	})
}
