package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

// variableKey signs differently each time, as a key management service does.
func variableKey(t testing.TB) *Key {
	t.Helper()
	key, err := NewKey(variableHolder{memoryKey{private: rfcKey(t)}})
	require.NoError(t, err)
	return key
}

type variableHolder struct{ memory memoryKey }

func (h variableHolder) Public() crypto.PublicKey { return h.memory.Public() }

func (h variableHolder) Sign(_ context.Context, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, h.memory.private.(*ecdsa.PrivateKey), sum[:])
}

// referrersOf is what the fallback index of a manifest lists.
func (s *store) referrersOf(t testing.TB, manifest digest.Digest) []oci.Descriptor {
	t.Helper()
	s.mu.Lock()
	found, ok := s.manifests[fallbackTagOf(manifest)]
	s.mu.Unlock()
	require.True(t, ok, "no index of referrers")
	index, err := readReferrersIndex("test", found)
	require.NoError(t, err)
	return index.entries
}

// requireBundles holds the referrers of a manifest against the keys of which
// there have to be bundles, one of each.
func requireBundles(t *testing.T, s *store, manifest digest.Digest, entries []oci.Descriptor, keys ...*Key) {
	t.Helper()
	for _, key := range keys {
		found, err := newBundleReader(s, manifest, []*PublicKey{key.Public()}).by(t.Context(), entries, key.Public())
		require.NoError(t, err)
		require.Len(t, found, 1, "bundles by %s", key.Fingerprint())
	}
}

func TestABundleAndItsReferrerByteForByte(t *testing.T) {
	t.Parallel()
	key, err := newMemoryKey(rfcKey(t))
	require.NoError(t, err)
	body, err := newBundle(t.Context(), key, digestA, nil)
	require.NoError(t, err)
	var read struct {
		Envelope struct {
			Payload    []byte
			Signatures []json.RawMessage
		} `json:"dsseEnvelope"`
	}
	require.NoError(t, json.Unmarshal(body, &read))
	require.Equal(t, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"`+hexA+`"},"annotations":{}}],`+
		`"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`, string(read.Envelope.Payload))
	payload, err := json.Marshal(read.Envelope.Payload)
	require.NoError(t, err)
	require.Equal(t, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",`+
		`"verificationMaterial":{"publicKey":{"hint":"Wnp4zKSg9CDZvGK7Zpw8J1njn3I9OuENy+DwgVoH7NQ="}},`+
		`"dsseEnvelope":{"payload":`+string(payload)+`,"payloadType":"application/vnd.in-toto+json",`+
		`"signatures":[`+string(read.Envelope.Signatures[0])+`]}}`, string(body))
	require.NotContains(t, string(read.Envelope.Signatures[0]), "keyid")

	made, err := newReferrer(target{digest: digestA, mediaType: oci.MediaTypeImageIndex, size: 7}, body, unrecordedTime)
	require.NoError(t, err)
	require.Equal(t, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json",`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},`+
		`"layers":[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","size":`+jsonText(t, len(body))+`,"digest":"`+digest.FromBytes(body).String()+`"}],`+
		`"subject":{"mediaType":"application/vnd.oci.image.index.v1+json","size":7,"digest":"`+string(digestA)+`"},`+
		`"annotations":{"dev.sigstore.bundle.content":"dsse-envelope","dev.sigstore.bundle.predicateType":"https://sigstore.dev/cosign/sign/v1",`+
		`"org.opencontainers.image.created":"1970-01-01T00:00:00Z"}}`, string(made.body))
}

func jsonText(t *testing.T, value any) string { return string(jsonOf(t, value)) }

func TestBundlesWhereTheRegistryListsReferrers(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]*Key{"known beforehand": {newKey(t), newKey(t)}, "looked for": {variableKey(t)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			s.api = true
			d := s.image(t, "1")
			signer := signerOn(t, s, Options{Keys: keys, Formats: []Format{FormatReferrer}})
			first, err := signer.Sign(t.Context(), requestOne)
			require.NoError(t, err)
			require.Len(t, first.Signed, len(keys))
			require.NotContains(t, s.manifests, fallbackTagOf(d))
			s.counts()

			again, err := signer.Sign(t.Context(), requestOne)
			require.NoError(t, err)
			counts := s.counts()
			require.Zero(t, counts["PUT manifest"]+counts["PUT blob"], "signed again")
			for i, signed := range again.Signed {
				require.True(t, signed.Already)
				require.Equal(t, first.Signed[i].Attachment, signed.Attachment)
			}
			entries, err := s.Referrers(t.Context(), d)
			require.NoError(t, err)
			requireBundles(t, s, d, entries, keys...)
		})
	}
}

func TestBundlesInAnIndexOfReferrers(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	keys := []*Key{newKey(t), variableKey(t)}
	signer := signerOn(t, s, Options{Keys: keys, Formats: []Format{FormatReferrer}})
	_, err := signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	entries := s.referrersOf(t, d)
	requireBundles(t, s, d, entries, keys...)
	for _, entry := range entries {
		require.Equal(t, bundleType, entry.ArtifactType)
		require.Equal(t, "dsse-envelope", entry.Annotations[contentAnnotation])
		require.Equal(t, int64(len(s.manifests[entry.Digest.String()].Body)), entry.Size)
	}
	s.counts()

	again, err := signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Zero(t, s.counts()["PUT manifest"])
	for _, signed := range again.Signed {
		require.True(t, signed.Already)
	}
}

// An entry can be lost when another signer writes the index that it read before.
func TestALostEntryIsRepairedWithoutUploading(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	key := newKey(t)
	signer := signerOn(t, s, Options{Keys: []*Key{key}, Formats: []Format{FormatReferrer}, ConfirmWrites: ConfirmNever})
	_, err := signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	theirs := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":9,"digest":"` +
		string(digestB) + `","x":1.50}]}`
	s.put(fallbackTagOf(d), oci.MediaTypeImageIndex, []byte(theirs))
	s.counts()

	_, err = signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"GET manifest": 2, "HEAD manifest": 1, "PUT manifest": 1}, s.counts())
	requireBundles(t, s, d, s.referrersOf(t, d), key)
	require.Contains(t, string(s.manifests[fallbackTagOf(d)].Body), `"digest":"`+string(digestB)+`","x":1.50}`, "theirs stays as it was")
}

// A bundle that was found, and is gone before another is added, is made anew with
// all that belongs to it.
func TestAnEntryThatIsLostBetweenTwoLooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d := s.image(t, "1")
		first, second := newKey(t), newKey(t)
		options := Options{Keys: []*Key{first}, Formats: []Format{FormatReferrer}, Timestamps: true, ConfirmWrites: ConfirmAlways}
		_, err := signerOn(t, s, options).Sign(t.Context(), requestOne)
		require.NoError(t, err)
		time.Sleep(time.Hour) // of the bubble: a bundle made now is another
		theirs := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":9,"digest":"` + string(digestB) + `"}]}`)
		options.Keys = append(options.Keys, second)
		result, err := signerOn(t, &overwritten{store: s, tag: fallbackTagOf(d), theirs: theirs}, options).Sign(t.Context(), requestOne)
		require.NoError(t, err)
		for _, signature := range result.Signed {
			require.Contains(t, s.manifests, signature.Attachment)
		}
		requireBundles(t, s, d, s.referrersOf(t, d), first, second)
	})
}

// overwritten is a store in which somebody writes an index right after ours.
type overwritten struct {
	*store
	tag    string
	theirs []byte
	done   bool
}

func (o *overwritten) PutManifest(ctx context.Context, reference, mediaType string, body []byte, begin registry.BeginWrite) error {
	err := o.store.PutManifest(ctx, reference, mediaType, body, begin)
	if err == nil && reference == o.tag && !o.done {
		o.done = true
		o.put(o.tag, oci.MediaTypeImageIndex, o.theirs)
	}
	return err
}

// That the other entries of an index are our own is known before it is written.
func TestASecondKeyHasNothingToConfirm(t *testing.T) {
	t.Parallel()
	for _, format := range bothFormats {
		synctest.Test(t, func(t *testing.T) {
			s := newStore()
			s.image(t, "1")
			first, second := newKey(t), newKey(t)
			began := time.Now()
			for _, keys := range [][]*Key{{first}, {first, second}} {
				_, err := signerOn(t, s, Options{Keys: keys, Formats: []Format{format}}).Sign(t.Context(), requestOne)
				require.NoError(t, err)
			}
			require.Zero(t, time.Since(began), format)
		})
	}
}

func TestSignersOfOneIndexOfReferrersTakeTurns(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	shared := &locks{}
	var keys []*Key
	var group errgroup.Group
	for range 8 {
		key := newKey(t)
		keys = append(keys, key)
		signer := signerOn(t, s, Options{Keys: []*Key{key}, Locker: shared, Formats: []Format{FormatTag, FormatReferrer}, ConfirmWrites: ConfirmNever})
		group.Go(func() error {
			_, err := signer.Sign(t.Context(), requestOne)
			return err
		})
	}
	require.NoError(t, group.Wait())
	requireBundles(t, s, d, s.referrersOf(t, d), keys...)
	requireSigned(t, s, d, "example.com/app:1", keys...)
}

func TestSomethingElseUnderTheTagOfReferrersIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	s.put(fallbackTagOf(d), oci.MediaTypeImageManifest, []byte(cosignAttachment))
	_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Formats: []Format{FormatReferrer}}).Sign(t.Context(), requestOne)
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, cosignAttachment, string(s.manifests[fallbackTagOf(d)].Body))
}

// A registry that lacks what it took makes all be uploaded once more.
func TestABundleThatIsGoneIsUploadedAgain(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	s.Holds(digest.FromString(emptyConfig)) // but it does not
	key := newKey(t)
	s.onPut = func(context.Context, string, []byte) error {
		return &registry.Error{Method: "PUT", Status: 400, Codes: []registry.Diagnostic{{Code: "MANIFEST_BLOB_UNKNOWN"}}}
	}
	_, err := signerOn(t, s, Options{Keys: []*Key{key}, Formats: []Format{FormatReferrer}}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	requireBundles(t, s, d, s.referrersOf(t, d), key)
	require.Contains(t, s.blobs, digest.FromString(emptyConfig))
}

// Whether a manifest with a known digest was stored can be asked.
func TestAReferrerOfUnknownOutcomeIsLookedFor(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.api = true
	d := s.image(t, "1")
	key := newKey(t)
	lost := unanswered(t)
	s.onPut = func(ctx context.Context, reference string, body []byte) error {
		s.put(reference, oci.MediaTypeImageManifest, body)
		short, cancel := context.WithCancel(ctx)
		cancel()
		return lost(short, reference, body)
	}
	_, err := signerOn(t, s, Options{Keys: []*Key{key}, Formats: []Format{FormatReferrer}}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Equal(t, 1, s.counts()["PUT manifest"])
	entries, err := s.Referrers(t.Context(), d)
	require.NoError(t, err)
	requireBundles(t, s, d, entries, key)
}
