package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

var bothFormats = []Format{FormatTag, FormatReferrer}

// another is a signer of another process, with a key of its own unless told
// otherwise. It confirms no write: what one signer wrote is foreign to the next.
func (w world) another(t *testing.T, o Options) *Signer {
	t.Helper()
	o.Registry, o.Locker, o.ConfirmWrites = newClient(t, registry.Options{}), &locks{}, ConfirmNever
	if o.Keys == nil {
		o.Keys = []*Key{newKey(t)}
	}
	signer, err := New(o)
	require.NoError(t, err)
	return signer
}

// requireTagged demands signatures by the keys under the tag, with all that
// their manifest names.
func (w world) requireTagged(t *testing.T, repository, identity, manifest string, keys ...*Key) {
	t.Helper()
	mediaType, body, ok := w.Get(repository, attachmentTag(digest.Digest(manifest)))
	require.True(t, ok, "no attachment for %s", manifest)
	attached, err := readAttachment("test", registry.Manifest{MediaType: mediaType, Body: body, Digest: digest.FromBytes(body)})
	require.NoError(t, err)
	payload, err := newPayload(identity, digest.Digest(manifest), nil)
	require.NoError(t, err)
	for _, key := range keys {
		require.True(t, carries(attached, key, payload), "signature of %s by %s", manifest, key.Fingerprint())
	}
	for _, named := range []digest.Digest{attached.config, digest.FromBytes(payload)} {
		_, ok := w.Blob(repository, named.String())
		require.True(t, ok, "blob %s", named)
	}
}

// requireReferring demands bundles by the keys among the referrers.
func (w world) requireReferring(t *testing.T, repository, manifest string, keys ...*Key) {
	t.Helper()
	repo, err := w.signer.open(w.Host() + "/" + repository)
	require.NoError(t, err)
	entries, err := listReferrers(t.Context(), repo, digest.Digest(manifest))
	require.NoError(t, err)
	for _, key := range keys {
		found, err := newBundleReader(repo, digest.Digest(manifest), []*PublicKey{key.Public()}).by(t.Context(), entries, key.Public())
		require.NoError(t, err)
		require.Len(t, found, 1, "bundles of %s by %s", manifest, key.Fingerprint())
	}
}

// Two signers, one after the other, on registries that each do something in a
// way of their own.
func TestRegistriesOfAllKinds(t *testing.T) {
	t.Parallel()
	api, headerless := registrytest.WithReferrers(true), registrytest.WithReferrers(false)
	type options = []registrytest.Option
	for name, c := range map[string]struct {
		options   options
		referrers *registrytest.Fault // of GET referrers
		lists     bool                // it has the referrers API
		storage   bool                // which has to be asked or written to
	}{
		"Harbor's 404":                      {options: options{registrytest.WithHarborErrors(), api}, lists: true},
		"Harbor's 404, no referrers API":    {options: options{registrytest.WithHarborErrors()}},
		"uploads at a relative location":    {options: options{registrytest.WithUploadLocation(registrytest.UploadRelative)}},
		"uploads with a state":              {options: options{registrytest.WithUploadLocation(registrytest.UploadWithState)}},
		"uploads at a whole URL":            {options: options{registrytest.WithUploadLocation(registrytest.UploadPlain)}},
		"uploads at a URL with a state":     {options: options{registrytest.WithUploadLocation(registrytest.UploadAbsolute)}},
		"uploads to signed URLs":            {options: options{registrytest.WithUploadLocation(registrytest.UploadToStorage), api}, lists: true, storage: true},
		"uploads to another host":           {options: options{registrytest.WithUploadLocation(registrytest.UploadToHost)}, storage: true},
		"blobs in storage":                  {options: options{registrytest.WithRedirects()}, storage: true},
		"everything in storage":             {options: options{registrytest.WithAllRedirects()}, storage: true},
		"everything in storage, with API":   {options: options{registrytest.WithAllRedirects(), api}, lists: true, storage: true},
		"no Docker-Content-Digest":          {options: options{registrytest.WithoutContentDigest(), api}, lists: true},
		"no Docker-Content-Digest, no API":  {options: options{registrytest.WithoutContentDigest()}},
		"referrers API that no header says": {options: options{headerless}, lists: true},
		"referrers one at a time":           {options: options{headerless, registrytest.WithReferrersPages(1)}, lists: true},
		"referrers answered 400":            {referrers: &registrytest.Fault{Status: 400, Code: "UNSUPPORTED"}},
		"referrers answered 405":            {referrers: &registrytest.Fault{Status: 405}},
		"referrers answered with a page":    {referrers: &registrytest.Fault{Status: 200, ContentType: "text/html", Body: "<html>"}},
		"configs of images only":            {options: options{registrytest.WithFullConfigs()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{Formats: bothFormats, ConfirmWrites: ConfirmNever}, c.options...)
			if c.referrers != nil {
				c.referrers.Times = registrytest.Always
				w.Fail(registrytest.Match{Kind: registrytest.KindReferrers}, *c.referrers)
			}
			index := w.PushIndex(t, "team/app", "1", "linux/amd64", "linux/arm64")
			single := w.PushManifest(t, "team/app", "2", "linux/amd64")
			second := w.another(t, Options{Formats: bothFormats})
			for _, signer := range []*Signer{w.signer, second} {
				for _, tag := range []string{"1", "2"} {
					request := Request{Reference: w.reference("team/app", tag), Platforms: []string{"linux/amd64"}}
					_, err := signer.Sign(t.Context(), request)
					require.NoError(t, err)
					again, err := signer.Sign(t.Context(), request)
					require.NoError(t, err)
					for _, signature := range again.Signed {
						require.True(t, signature.Already)
					}
				}
			}
			keys := append(w.keys, second.options.Keys...)
			for digest, tag := range map[string]string{index.Digest: "1", index.Children[0].Digest: "1", single.Digest: "2"} {
				w.requireTagged(t, "team/app", w.reference("team/app", tag), digest, keys...)
				w.requireReferring(t, "team/app", digest, keys...)
			}
			stored := slices.ContainsFunc(w.Requests(), func(r registrytest.Request) bool { return r.Kind == registrytest.KindStorage })
			require.Equal(t, c.storage, stored)
			_, _, indexed := w.Get("team/app", fallbackTagOf(digest.Digest(single.Digest)))
			require.Equal(t, !c.lists, indexed, "an index of referrers is for registries that list none")
		})
	}
}

// One host that leads to two registries, of which one lists referrers: bundles are
// to be found in both.
func TestAHostThatLeadsToTwoRegistries(t *testing.T) {
	t.Parallel()
	lists, does := registrytest.New(t, registrytest.WithReferrers(true)), registrytest.New(t)
	way := func(r *registrytest.Registry) http.Handler {
		to, err := url.Parse(r.URL())
		require.NoError(t, err)
		return &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }}
	}
	paths := http.NewServeMux()
	paths.Handle("/v2/new/", way(lists))
	paths.Handle("/v2/old/", way(does))
	server := httptest.NewServer(paths)
	t.Cleanup(server.Close)
	key := newKey(t)
	options := Options{Keys: []*Key{key}, Formats: []Format{FormatReferrer}, ConfirmWrites: ConfirmNever, Locker: &locks{}}
	options.Registry = newClient(t, registry.Options{})
	signer, err := New(options)
	require.NoError(t, err)
	for range 2 { // the second time it is all there
		for name, r := range map[string]*registrytest.Registry{"new/app": lists, "old/app": does} {
			image := r.PushManifest(t, name, "1", "linux/amd64")
			for range 2 {
				_, err := signer.Sign(t.Context(), Request{Reference: server.Listener.Addr().String() + "/" + name + ":1"})
				require.NoError(t, err)
			}
			repo, err := newClient(t, registry.Options{}).Repository(r.Host() + "/" + name)
			require.NoError(t, err)
			entries, err := listReferrers(t.Context(), repo, digest.Digest(image.Digest))
			require.NoError(t, err)
			require.Len(t, entries, 1, name)
		}
	}
}

// One odd answer to the question who refers to an image does not make it signed.
func TestAnOddListOfReferrers(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]registrytest.Fault{
		"404": {Status: http.StatusNotFound}, "400": {Status: http.StatusBadRequest}, "405": {Status: http.StatusMethodNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{Formats: []Format{FormatReferrer}, Timestamps: true}, registrytest.WithReferrers(true))
			first, second := w.PushManifest(t, "app", "1", "linux/amd64"), w.PushManifest(t, "app", "2", "linux/arm64")
			_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
			require.NoError(t, err)
			w.Fail(registrytest.Match{Kind: registrytest.KindReferrers}, fault)

			result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "2")})

			require.NoError(t, err)
			require.NotEmpty(t, result.Signed[0].Attachment)
			for _, image := range []registrytest.Image{first, second} {
				w.requireReferring(t, "app", image.Digest, w.keys...)
			}
		})
	}
}

// A registry that says of a manifest that it is another has sent the wrong one.
func TestAWrongDigestIsNotSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Formats: bothFormats}, registrytest.WithWrongContentDigest())
	w.PushManifest(t, "app", "1", "linux/amd64")
	_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
	var mismatch *registry.MismatchError
	require.ErrorAs(t, err, &mismatch)
	require.Equal(t, map[string]int{"GET manifest": 1}, w.Counts())
}

// The first signature under a tag is a new tag, the second a change.
func TestImmutableTags(t *testing.T) {
	t.Parallel()
	for _, like := range registrytest.ImmutableRegistries() {
		t.Run(string(like), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{}, registrytest.WithImmutableTags(like), registrytest.WithReferrers(true))
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			request := Request{Reference: w.reference("app", "1")}
			_, err := w.signer.Sign(t.Context(), request)
			require.NoError(t, err)
			tag := attachmentTag(digest.Digest(image.Digest))
			_, before, _ := w.Get("app", tag)

			// Signed already is no change.
			_, err = w.another(t, Options{Keys: w.keys}).Sign(t.Context(), request)
			require.NoError(t, err)

			_, err = w.another(t, Options{}).Sign(t.Context(), request)
			var immutable *ImmutableError
			require.ErrorAs(t, err, &immutable)
			require.Equal(t, w.Host()+"/app:"+tag, immutable.Attachment)
			require.ErrorContains(t, err, `exempt the tags "sha256-*.sig"`)
			require.ErrorContains(t, err, "immutable-fallback")

			for _, formats := range [][]Format{{FormatTag}, bothFormats} {
				allowed := w.another(t, Options{ImmutableFallback: true, Formats: formats})
				result, err := allowed.Sign(t.Context(), request)
				require.NoError(t, err)
				require.Len(t, result.Signed, 1, "%v", formats)
				require.Equal(t, string(FormatReferrer), result.Signed[0].Format)
				w.requireReferring(t, "app", image.Digest, allowed.options.Keys...)
				again, err := allowed.Sign(t.Context(), request)
				require.NoError(t, err)
				require.True(t, again.Signed[0].Already)
			}
			_, after, _ := w.Get("app", tag)
			require.Equal(t, string(before), string(after))
		})
	}
}

// The index of referrers is a tag like the other: where neither may change,
// there is no way left for a second signer.
func TestAnImmutableIndexOfReferrers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Formats: bothFormats}, registrytest.WithImmutableTags(registrytest.ImmutableHarbor))
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	request := Request{Reference: w.reference("app", "1")}
	_, err := w.signer.Sign(t.Context(), request)
	require.NoError(t, err)

	_, err = w.another(t, Options{ImmutableFallback: true}).Sign(t.Context(), request)

	var immutable *ImmutableError
	require.ErrorAs(t, err, &immutable)
	require.Equal(t, w.Host()+"/app:"+fallbackTagOf(digest.Digest(image.Digest)), immutable.Attachment)
	require.ErrorContains(t, err, `exempt the tags "sha256-*" `)
	require.NotContains(t, err.Error(), "immutable-fallback", "that has been tried")
	w.requireReferring(t, "app", image.Digest, w.keys...)
}

// That a host refuses the config that all attachments share is learned once.
func TestARefusedConfigIsNotOfferedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{}, registrytest.WithFullConfigs())
	refusals := func() (n int) {
		for _, request := range w.Requests() {
			if request.Status == http.StatusBadRequest {
				n++
			}
		}
		return n
	}
	for i, repository := range []string{"team/app", "team/app", "team/other"} {
		tag := fmt.Sprint(i)
		image := w.PushManifest(t, repository, tag, "linux/"+tag)
		_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference(repository, tag)})
		require.NoError(t, err)
		w.requireTagged(t, repository, w.reference(repository, tag), image.Digest, w.keys...)
		require.Equal(t, 1, refusals())
	}
	// Another signer changes the config along with the layers.
	_, err := w.another(t, Options{}).Sign(t.Context(), Request{Reference: w.reference("team/app", "0")})
	require.NoError(t, err)
	require.Equal(t, 2, refusals(), "it learns for itself")
}

// Neither a media type in a manifest nor a platform in an index is mandatory.
func TestImagesThatSayLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Formats: bothFormats})
	var children []oci.Descriptor
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		var manifest map[string]any
		full := w.PushManifest(t, "app", "", platform)
		require.NoError(t, json.Unmarshal(full.Body, &manifest))
		delete(manifest, "mediaType")
		body := jsonOf(t, manifest)
		children = append(children, oci.Descriptor{MediaType: oci.MediaTypeImageManifest, Size: int64(len(body)),
			Digest: digest.Digest(w.Put(t, "app", "", oci.MediaTypeImageManifest, body))})
	}
	index := w.Put(t, "app", "1", oci.MediaTypeImageIndex, jsonOf(t, map[string]any{"schemaVersion": 2, "manifests": children}))

	result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})

	require.NoError(t, err)
	require.Len(t, result.Signed, 2*3)
	for _, d := range []string{index, children[0].Digest.String(), children[1].Digest.String()} {
		w.requireTagged(t, "app", w.reference("app", "1"), d, w.keys...)
		w.requireReferring(t, "app", d, w.keys...)
	}
	for _, signature := range result.Signed {
		if signature.Digest != index {
			require.Empty(t, signature.Platform)
		}
	}
}

// Who asks for a platform that the index does not say gets it all the same: it
// stands in the configs.
func TestPlatformsThatOnlyTheConfigsSay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	var children []oci.Descriptor
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		image := w.PushManifest(t, "app", "", platform)
		children = append(children, oci.Descriptor{MediaType: image.MediaType, Digest: digest.Digest(image.Digest), Size: int64(len(image.Body))})
	}
	said := w.PushManifest(t, "app", "", "linux/riscv64")
	children = append(children, oci.Descriptor{MediaType: said.MediaType, Digest: digest.Digest(said.Digest), Size: int64(len(said.Body)),
		Platform: &oci.Platform{OS: "linux", Architecture: "riscv64"}})
	index := w.Put(t, "app", "1", oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex, Manifests: children}))

	result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1"), Platforms: []string{"linux/arm64", "linux/riscv64"}})

	require.NoError(t, err)
	signed := map[string]string{}
	for _, signature := range result.Signed {
		signed[signature.Platform] = signature.Digest
		w.requireTagged(t, "app", w.reference("app", "1"), signature.Digest, w.keys...)
	}
	require.Equal(t, map[string]string{indexPlatform: index, "linux/arm64": string(children[1].Digest), "linux/riscv64": said.Digest}, signed)
	require.Equal(t, 2, w.Counts()["GET blob"], "what the index says is not read again")
}

// Nobody reads manifests longer than 4 MiB, so nobody is made to.
func TestManifestsThatAreTooLong(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("x"), maxAttachment))
	for name, put := range map[string]func(w world) string{
		"image": func(w world) string {
			image := w.PushManifest(t, "app", "short", "linux/amd64")
			body := bytes.Replace(image.Body, []byte("{"), []byte(`{"annotations":{"x":"`+long+`"},`), 1)
			return w.Put(t, "app", "1", oci.MediaTypeImageManifest, body)
		},
		"attachment": func(w world) string {
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			body := bytes.Replace([]byte(cosignAttachment), []byte("{"), []byte(`{"annotations":{"x":"`+long+`"},`), 1)
			w.Put(t, "app", attachmentTag(digest.Digest(image.Digest)), oci.MediaTypeImageManifest, body)
			return image.Digest
		},
		"index of referrers": func(w world) string {
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			w.Put(t, "app", fallbackTagOf(digest.Digest(image.Digest)), oci.MediaTypeImageIndex,
				[]byte(`{"schemaVersion":2,"annotations":{"x":"`+long+`"},"manifests":[]}`))
			return image.Digest
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			format := FormatTag
			if name == "index of referrers" {
				format = FormatReferrer
			}
			w := newWorld(t, Options{Formats: []Format{format}})
			put(w)
			_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
			var large *registry.TooLargeError
			require.ErrorAs(t, err, &large)
			require.Zero(t, w.Counts()["PUT manifest"])
		})
	}
}

// A registry may say 201 and keep nothing. Who confirms his writes sees it.
func TestAWriteThatIsAcceptedAndLost(t *testing.T) {
	t.Parallel()
	for _, format := range bothFormats {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				d := s.image(t, "1")
				s.onPut = func(_ context.Context, reference string, body []byte) error {
					if format == FormatReferrer { // the bundle is kept, and its index is lost
						s.put(reference, oci.MediaTypeImageManifest, body)
						s.onPut = func(context.Context, string, []byte) error { return nil }
					}
					return nil
				}
				key := newKey(t)
				result, err := signerOn(t, s, Options{Keys: []*Key{key}, Formats: []Format{format}, ConfirmWrites: ConfirmAlways}).Sign(t.Context(), requestOne)
				require.NoError(t, err)
				require.False(t, result.Signed[0].Already)
				if format == FormatReferrer {
					requireBundles(t, s, d, s.referrersOf(t, d), key)
					return
				}
				requireSigned(t, s, d, "example.com/app:1", key)
			})
		})
	}
}

// So does a registry over the wire, whichever of its writes it forgets. What it
// lists by itself nobody else can have overwritten: there is no time to wait for.
func TestAManifestThatTheRegistryForgets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		format  Format
		options []registrytest.Option
		index   bool // which is what is forgotten
	}{
		"signatures under the tag":               {format: FormatTag},
		"a bundle":                               {format: FormatReferrer, options: []registrytest.Option{registrytest.WithReferrers(true)}},
		"a bundle in an index":                   {format: FormatReferrer, options: []registrytest.Option{registrytest.WithLooseManifests()}},
		"the index":                              {format: FormatReferrer, index: true},
		"a bundle that is missed from the index": {format: FormatReferrer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{Formats: []Format{c.format}, ConfirmWrites: ConfirmAlways}, c.options...)
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			lost := registrytest.Match{Method: http.MethodPut, Kind: registrytest.KindManifest}
			if c.index {
				lost.Reference = fallbackTagOf(digest.Digest(image.Digest))
			}
			w.Fail(lost, registrytest.Fault{Status: http.StatusCreated})

			result, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})

			require.NoError(t, err)
			require.False(t, result.Signed[0].Already)
			if c.format == FormatTag {
				w.requireTagged(t, "app", w.reference("app", "1"), image.Digest, w.keys...)
				return
			}
			w.requireReferring(t, "app", image.Digest, w.keys...)
		})
	}
}

// What a registry has lost since is put back by who asks for it to be looked at.
func TestWhatTheRegistryHasLostIsPutBack(t *testing.T) {
	t.Parallel()
	for name, format := range map[string]Format{"payload": FormatTag, "config": FormatTag, "bundle": FormatReferrer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{Formats: []Format{format}}, registrytest.WithLooseManifests())
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			request := Request{Reference: w.reference("app", "1")}
			_, err := w.signer.Sign(t.Context(), request)
			require.NoError(t, err)
			subject := digest.Digest(image.Digest)
			payload, err := newPayload(w.reference("app", "1"), subject, nil)
			require.NoError(t, err)
			switch name {
			case "payload":
				w.LoseBlob("app", digest.FromBytes(payload).String())
			case "config":
				w.LoseBlob("app", digest.FromString(constantConfig).String())
			case "bundle":
				repo, err := w.signer.open(w.Host() + "/app")
				require.NoError(t, err)
				entries, err := listReferrers(t.Context(), repo, subject)
				require.NoError(t, err)
				require.NoError(t, repo.DeleteManifest(t.Context(), entries[0].Digest))
			}
			careful := w.another(t, Options{Formats: []Format{format}, Keys: w.keys})
			careful.options.ConfirmWrites = ConfirmAlways

			result, err := careful.Sign(t.Context(), request)

			require.NoError(t, err)
			require.True(t, result.Signed[0].Already)
			if format == FormatReferrer {
				w.requireReferring(t, "app", image.Digest, w.keys...)
				return
			}
			w.requireTagged(t, "app", w.reference("app", "1"), image.Digest, w.keys...)
		})
	}
}

// An entry whose manifest is gone keeps an index from being written. It is not
// ours to drop, but what to do can be said.
func TestAnIndexWithAnEntryThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Formats: []Format{FormatReferrer}})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	request := Request{Reference: w.reference("app", "1")}
	_, err := w.another(t, Options{Formats: []Format{FormatReferrer}}).Sign(t.Context(), request)
	require.NoError(t, err)
	repo, err := w.signer.open(w.Host() + "/app")
	require.NoError(t, err)
	entries, err := listReferrers(t.Context(), repo, digest.Digest(image.Digest))
	require.NoError(t, err)
	require.NoError(t, repo.DeleteManifest(t.Context(), entries[0].Digest))

	_, err = w.signer.Sign(t.Context(), request)

	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	require.ErrorContains(t, err, "push that again, or delete the tag")
	require.ErrorContains(t, err, string(entries[0].Digest))
}

// A registry that keeps nothing at all is not waited for without an end.
func TestARegistryThatForgetsEveryBundle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Formats: []Format{FormatReferrer}, ConfirmWrites: ConfirmAlways}, registrytest.WithReferrers(true))
	w.PushManifest(t, "app", "1", "linux/amd64")
	w.Fail(registrytest.Match{Method: http.MethodPut, Kind: registrytest.KindManifest}, registrytest.Fault{Status: http.StatusCreated, Times: registrytest.Always})
	_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	require.ErrorContains(t, err, "did not keep it")
}

// A signature in Docker's media type stops containers/image, and is another's:
// it is neither added to nor overwritten.
func TestAnAttachmentOfDockersMediaType(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	image := w.PushManifest(t, "app", "1", "linux/amd64")
	_, err := w.another(t, Options{}).Sign(t.Context(), Request{Reference: w.reference("app", "1")})
	require.NoError(t, err)
	tag := attachmentTag(digest.Digest(image.Digest))
	_, body, _ := w.Get("app", tag)
	body = bytes.Replace(body, []byte(oci.MediaTypeImageManifest), []byte(dockerManifest), 1)
	stored := w.Put(t, "app", tag, dockerManifest, body)

	_, err = w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})

	var unsupported *UnsupportedError
	require.ErrorAs(t, err, &unsupported)
	require.ErrorContains(t, err, dockerManifest)
	require.ErrorContains(t, err, "remove them and sign again")
	_, after, _ := w.Get("app", tag)
	require.Equal(t, stored, digest.FromBytes(after).String())
}

// A token that is revoked while an image is signed is renewed, once: who is
// refused again is not who he was.
func TestATokenThatIsRevoked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		times   int
		refused bool
	}{"in the middle": {times: 1}, "whenever it is used": {times: registrytest.Always, refused: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{Formats: bothFormats}, registrytest.WithTokenAuth("", "", 300))
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			w.Fail(registrytest.Match{Method: http.MethodPut, Kind: registrytest.KindManifest}, registrytest.Fault{Revoke: true, Times: c.times})

			_, err := w.signer.Sign(t.Context(), Request{Reference: w.reference("app", "1")})

			if c.refused {
				var answer *registry.Error
				require.ErrorAs(t, err, &answer)
				require.Equal(t, http.StatusUnauthorized, answer.Status)
				return
			}
			require.NoError(t, err)
			w.requireTagged(t, "app", w.reference("app", "1"), image.Digest, w.keys...)
			w.requireReferring(t, "app", image.Digest, w.keys...)
			require.Equal(t, 2, w.Counts()["GET token"], "the first, and one in its place")
		})
	}
}

// The new key's bundle comes, the old one's goes, and nobody else's is touched.
// Where the registry removes nothing, the old one stays.
func TestABundleByAnOldKeyIsReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options []registrytest.Option
		stays   bool
	}{
		"removed":                    {options: []registrytest.Option{registrytest.WithReferrers(true)}},
		"not removed":                {options: []registrytest.Option{registrytest.WithReferrers(true), registrytest.WithoutDelete()}, stays: true},
		"dropped from the index":     {},
		"index, nothing is removed ": {options: []registrytest.Option{registrytest.WithoutDelete()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, third := newKey(t), newKey(t)
			w := newWorld(t, Options{Formats: []Format{FormatReferrer}, Replaced: []*PublicKey{old.Public()}, ConfirmWrites: ConfirmNever}, c.options...)
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			request := Request{Reference: w.reference("app", "1")}
			for _, key := range []*Key{old, third} {
				_, err := w.another(t, Options{Keys: []*Key{key}, Formats: []Format{FormatReferrer}}).Sign(t.Context(), request)
				require.NoError(t, err)
			}

			_, err := w.signer.Sign(t.Context(), request)

			require.NoError(t, err)
			w.requireReferring(t, "app", image.Digest, third, w.keys[0])
			repo, err := w.signer.open(w.Host() + "/app")
			require.NoError(t, err)
			entries, err := listReferrers(t.Context(), repo, digest.Digest(image.Digest))
			require.NoError(t, err)
			require.Equal(t, c.stays, len(entries) == 3, "%d referrers", len(entries))
		})
	}
}

// A manifest whose sending was cut off half way is looked for and sent again;
// so is the image, by whoever asked for it, when a blob's was.
func TestAWriteThatIsCutHalfWay(t *testing.T) {
	t.Parallel()
	half := registrytest.Fault{CutRequest: true}
	request := func(w world) Request { return Request{Reference: w.reference("app", "1")} }
	for name, c := range map[string]struct {
		format    Format
		reference func(manifest digest.Digest) string // of what is cut; any if nil
		puts      int
	}{
		"signatures under the tag": {FormatTag, attachmentTag, 2},
		"the manifest of a bundle": {FormatReferrer, nil, 3},
		"the index of referrers":   {FormatReferrer, fallbackTagOf, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{Formats: []Format{c.format}})
			image := w.PushManifest(t, "app", "1", "linux/amd64")
			match := registrytest.Match{Method: http.MethodPut, Kind: registrytest.KindManifest}
			if c.reference != nil {
				match.Reference = c.reference(digest.Digest(image.Digest))
			}
			w.Fail(match, half)
			_, err := w.signer.Sign(t.Context(), request(w))
			require.NoError(t, err)
			require.Equal(t, c.puts, w.Counts()["PUT manifest"])
			if c.format == FormatTag {
				w.requireTagged(t, "app", w.reference("app", "1"), image.Digest, w.keys...)
				return
			}
			w.requireReferring(t, "app", image.Digest, w.keys...)
		})
	}
	t.Run("a blob", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, Options{Formats: bothFormats})
		image := w.PushManifest(t, "app", "1", "linux/amd64")
		w.Fail(registrytest.Match{Kind: registrytest.KindUpload}, half)
		_, err := w.signer.Sign(t.Context(), request(w))
		var cut *registry.Error
		require.ErrorAs(t, err, &cut)
		require.True(t, cut.Network(), "which is worth another attempt")
		_, err = w.signer.Sign(t.Context(), request(w))
		require.NoError(t, err)
		w.requireTagged(t, "app", w.reference("app", "1"), image.Digest, w.keys...)
		w.requireReferring(t, "app", image.Digest, w.keys...)
	})
}
