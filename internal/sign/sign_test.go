package sign

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// world is a registry with a signer on it that speaks to it over a real
// connection.
type world struct {
	*registrytest.Registry
	signer *Signer
	keys   []*Key
}

func newWorld(t *testing.T, o Options, options ...registrytest.Option) world {
	t.Helper()
	w := world{Registry: registrytest.New(t, options...)}
	if o.Keys == nil {
		o.Keys = []*Key{newKey(t)}
	}
	o.Registry, o.Locker, w.keys = newClient(t, registry.Options{}), &locks{}, o.Keys
	var err error
	w.signer, err = New(o)
	require.NoError(t, err)
	return w
}

// newClient knows nothing of what the machine says of registries.
func newClient(t testing.TB, o registry.Options) *registry.Client {
	t.Helper()
	insecure := false
	auth, conf := filepath.Join(t.TempDir(), "auth.json"), filepath.Join(t.TempDir(), "registries.conf")
	require.NoError(t, os.WriteFile(auth, []byte("{}"), 0o600))
	require.NoError(t, os.WriteFile(conf, nil, 0o600))
	o.TLSVerify, o.AuthFile, o.RegistriesConf = &insecure, auth, conf
	client, err := registry.New(o)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// reference names an image of the registry.
func (w world) reference(repository, tag string) string {
	return w.Host() + "/" + repository + ":" + tag
}

// verify reads the attachment of a manifest as cosign and containers/image do:
// every layer's blob, its signature, and what it claims.
func (w world) verify(t *testing.T, repository, identity, manifest string) {
	t.Helper()
	mediaType, body, ok := w.Get(repository, strings.Replace(manifest, ":", "-", 1)+".sig")
	require.True(t, ok, "no attachment for %s", manifest)
	require.Equal(t, oci.MediaTypeImageManifest, mediaType)
	read, err := readAttachment("test", registry.Manifest{MediaType: mediaType, Body: body, Digest: digest.FromBytes(body)})
	require.NoError(t, err)
	config, ok := w.Blob(repository, read.config.String())
	require.True(t, ok)
	require.JSONEq(t, constantConfig, string(config))
	for i, key := range w.keys {
		payload, ok := w.Blob(repository, read.entries[i].Digest.String())
		require.True(t, ok)
		require.True(t, carries(read, key, payload))
		var claim simpleSigning
		require.NoError(t, json.Unmarshal(payload, &claim))
		require.Equal(t, identity, claim.Critical.Identity.DockerReference)
		require.Equal(t, manifest, claim.Critical.Image.DockerManifestDigest.String())
	}
}

func TestRequestsStayWithinTheBudget(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		options []registrytest.Option
		want    map[string]int
	}{
		{"like distribution: 13", []registrytest.Option{registrytest.WithoutSinglePost()},
			map[string]int{"GET manifest": 4, "POST upload": 3, "PUT upload": 3, "PUT manifest": 3}},
		{"single POST: 10", nil,
			map[string]int{"GET manifest": 4, "POST upload": 3, "PUT manifest": 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{}, test.options...)
			before := w.PushManifest(t, "team/app", "before", "linux/amd64")
			_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("team/app", "before")})
			require.NoError(t, err)
			w.verify(t, "team/app", w.reference("team/app", "before"), before.Digest)

			index := w.PushIndex(t, "team/app", "1", "linux/arm64", "linux/arm/v7", "linux/s390x")
			request := Request{Reference: w.reference("team/app", "1"), Platforms: []string{"linux/arm64", "linux/arm"}}
			w.Reset()
			result, err := w.signer.Sign(t.Context(), request)
			require.NoError(t, err)
			require.Equal(t, test.want, w.Counts())

			require.Equal(t, index.Digest, result.Digest)
			require.Len(t, result.Signed, 3)
			for i, want := range []struct{ digest, platform string }{
				{index.Digest, "index"},
				{index.Children[0].Digest, "linux/arm64"},
				{index.Children[1].Digest, "linux/arm/v7"},
			} {
				require.Equal(t, want.digest, result.Signed[i].Digest)
				require.Equal(t, want.platform, result.Signed[i].Platform)
				require.False(t, result.Signed[i].Already)
				w.verify(t, "team/app", w.reference("team/app", "1"), want.digest)
			}
			_, _, other := w.Get("team/app", strings.Replace(index.Children[2].Digest, ":", "-", 1)+".sig")
			require.False(t, other, "a platform that nobody asked for")

			w.Reset()
			result, err = w.signer.Sign(t.Context(), request)
			require.NoError(t, err)
			require.Equal(t, map[string]int{"GET manifest": 4}, w.Counts())
			for _, signature := range result.Signed {
				require.True(t, signature.Already)
			}
		})
	}
}

func TestTheSharedConfigIsUploadedOnceForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	w.PushIndex(t, "app", "1", "linux/amd64", "linux/arm64")
	_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"GET manifest": 4, "POST upload": 3 + 1, "PUT manifest": 3}, w.Counts())
}

func TestEveryKindOfImageIsSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Keys: []*Key{newKey(t), newKey(t)}})
	list := w.PushDockerList(t, "app", "list", "linux/amd64")
	single := w.PushDockerManifest(t, "single", "1", "linux/amd64")

	result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "list"), Digest: list.Digest})
	require.NoError(t, err)
	require.Len(t, result.Signed, 4)
	w.verify(t, "app", w.reference("app", "list"), list.Digest)
	w.verify(t, "app", w.reference("app", "list"), list.Children[0].Digest)

	byDigest := w.Host() + "/single@" + single.Digest
	result, err = w.signer.Sign(t.Context(), Request{Reference: byDigest, Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	require.Equal(t, "linux/amd64", result.Signed[0].Platform)
	w.verify(t, "single", byDigest, single.Digest)

	// What was written is nothing to sign itself.
	attached := strings.Replace(single.Digest, ":", "-", 1) + ".sig"
	result, err = w.signer.Sign(t.Context(), Request{Reference: w.reference("single", attached)})
	require.NoError(t, err)
	require.Contains(t, result.Skipped, "attachment")
	require.Empty(t, result.Signed)
}

func TestAWriteWithAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault registrytest.Fault
		puts  int
	}{
		{"cut after it happened", registrytest.Fault{Cut: true, Applied: true}, 1},
		{"cut before it happened", registrytest.Fault{Cut: true}, 2},
		{"500 after it happened", registrytest.Fault{Status: 500, Applied: true}, 1},
		{"500 before it happened", registrytest.Fault{Status: 500}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{})
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			w.Fail(registrytest.Match{Method: "PUT", Kind: registrytest.KindManifest}, test.fault)
			result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
			require.NoError(t, err)
			require.False(t, result.Signed[0].Already)
			require.Equal(t, test.puts, w.Counts()["PUT manifest"])
			w.verify(t, "app", w.reference("app", "1"), image.Digest)
		})
	}
}

func TestWhatTheRegistrySaysReachesTheCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	w.PushIndex(t, "app", "1", "linux/amd64", "linux/arm64")

	_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "none")})
	require.ErrorIs(t, err, registry.ErrNotFound)

	w.Fail(registrytest.Match{Method: "PUT", Kind: registrytest.KindManifest},
		registrytest.Fault{Times: registrytest.Always, Status: 412, Code: "PRECONDITION", Message: "configured as immutable"})
	result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
	var immutable *ImmutableError
	require.ErrorAs(t, err, &immutable)
	require.Contains(t, immutable.Attachment, w.Host()+"/app:sha256-")
	require.Empty(t, result.Signed)
}

func TestAnAttachmentThatOnlyStorageLacksIsNotOverwritten(t *testing.T) {
	t.Parallel()
	storage := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(storage.Close)
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	attached := strings.Replace(image.Digest, ":", "-", 1) + ".sig"
	request := Request{Reference: w.reference("app", "1")}
	_, err := w.signer.Sign(t.Context(), request)
	require.NoError(t, err)
	_, before, _ := w.Get("app", attached)

	w.Reset()
	w.Fail(registrytest.Match{Method: "GET", Kind: registrytest.KindManifest, Reference: attached}, registrytest.Fault{
		Status: 307, Header: http.Header{"Location": {storage.URL + "/m?sig=expired"}},
	})
	_, err = w.signer.Sign(t.Context(), request)
	var answer *registry.Error
	require.ErrorAs(t, err, &answer)
	require.True(t, answer.Foreign)
	require.Equal(t, map[string]int{"GET manifest": 2}, w.Counts(), "nothing is written")
	_, after, _ := w.Get("app", attached)
	require.Equal(t, string(before), string(after))
}

// panickingHolder holds a key whose use panics.
type panickingHolder struct{ memoryKey }

func (panickingHolder) Sign(context.Context, []byte) ([]byte, error) { panic("no such slot") }

// panickingStore panics when something is uploaded.
type panickingStore struct{ *store }

func (panickingStore) PutBlob(context.Context, []byte) error { panic("no such blob") }

func TestAPanicIsAFailureOfTheImage(t *testing.T) {
	t.Parallel()
	holder, err := NewKey(panickingHolder{memoryKey{private: rfcKey(t)}})
	require.NoError(t, err)
	s := newStore()
	s.image(t, "1")
	for says, signer := range map[string]*Signer{
		"panic: no such slot": signerOn(t, s, Options{Keys: []*Key{holder}}),
		"panic: no such blob": signerOn(t, panickingStore{s}, Options{Keys: []*Key{newKey(t)}}),
	} {
		_, err := signer.Sign(t.Context(), requestOne)
		require.ErrorContains(t, err, says)
		var panicked *PanicError
		require.ErrorAs(t, err, &panicked)
		require.Contains(t, string(panicked.Stack), "panicking")
		_, err = signer.options.Locker.(*locks).Lock(t.Context(), s.Location()+"@"+s.manifests["1"].Digest.String())
		require.NoError(t, err, "the turn was given back")
	}
}

func TestWhatWasSignedBeforeAFailureIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	index := w.PushIndex(t, "app", "1", "linux/amd64")
	w.Fail(registrytest.Match{Method: "PUT", Kind: registrytest.KindManifest, Reference: strings.Replace(index.Digest, ":", "-", 1) + ".sig"},
		registrytest.Fault{Status: 403, Code: "DENIED"})
	result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
	require.ErrorContains(t, err, index.Digest)
	for _, signature := range result.Signed {
		require.Equal(t, index.Children[0].Digest, signature.Digest)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for says, o := range map[string]Options{
		"Registry":      {Locker: &locks{}, Keys: []*Key{key}},
		"Locker":        {Registry: &registry.Client{}, Keys: []*Key{key}},
		"Keys is empty": {Registry: &registry.Client{}, Locker: &locks{}},
		"twice":         {Registry: &registry.Client{}, Locker: &locks{}, Keys: []*Key{key, key}},
		"ConfirmWrites": {Registry: &registry.Client{}, Locker: &locks{}, Keys: []*Key{key}, ConfirmWrites: "sometimes"},
		"neither tag":   {Registry: &registry.Client{}, Locker: &locks{}, Keys: []*Key{key}, Formats: []Format{"sig"}},
	} {
		_, err := New(o)
		require.ErrorContains(t, err, says)
	}
}
