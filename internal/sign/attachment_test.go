package sign

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
)

// cosignAttachment is as cosign sign writes one, with its own kind of config.
const cosignAttachment = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":233,"digest":"sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"},` +
	`"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":243,` +
	`"digest":"sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",` +
	`"annotations":{"dev.cosignproject.cosign/signature":"MEUCIQ==","dev.sigstore.cosign/bundle":"{\"a\":1}"}}]}`

func found(body string) registry.Manifest {
	return registry.Manifest{MediaType: oci.MediaTypeImageManifest, Digest: digest.FromString(body), Body: []byte(body)}
}

func TestConstantConfigByteForByte(t *testing.T) {
	t.Parallel()
	require.Equal(t, `{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}`, constantConfig)
	var config oci.Image
	require.NoError(t, json.Unmarshal([]byte(constantConfig), &config))
}

func TestANewAttachmentByteForByte(t *testing.T) {
	t.Parallel()
	key, err := newMemoryKey(rfcKey(t))
	require.NoError(t, err)
	payload, err := newPayload("example.com/app:1", digestA, nil)
	require.NoError(t, err)
	made, err := key.sign(t.Context(), payload)
	require.NoError(t, err)

	body, err := (&tagged{config: []byte(constantConfig)}).compose("test", attachment{}, change{add: []descriptor{signatureLayer(payload, made, time.Time{})}})
	require.NoError(t, err)
	require.Equal(t, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":68,"digest":"sha256:c493a9b5c45f5c700faa4dd809857ca48cf055d98f939d7e80520d73cfbba97d"},`+
		`"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":233,"digest":"sha256:823f69f8192db12d87d25893d748074185af0a8b8ad9732cd8b197a4f7bf3765",`+
		`"annotations":{"dev.cosignproject.cosign/signature":"MEYCIQCd0IE97s34P6PX4OA0UagNPI89F17GQQ7yFgKOB96LGAIhANv2fb4phXB70PdEgZ9JMLLSVkynP61MIsCkpXxr2Kpr"}}]}`, string(body))
}

func TestMergingKeepsEveryByteOfOthers(t *testing.T) {
	t.Parallel()
	ours := signatureLayer([]byte("payload"), []byte("signature"), time.Time{})
	text := string(jsonOf(t, ours))
	for _, test := range []struct{ name, before, after string }{
		{"cosign's", cosignAttachment, strings.TrimSuffix(cosignAttachment, "]}") + "," + text + "]}"},
		{
			"unknown fields, odd order, spaces",
			"{ \"layers\" : [ {\"digest\":\"" + string(digestA) + "\",\"x\":[1.50]} \n ] ,\n \"future\":{\"a\":1e3,\"a\":\"<&>\"}, \"annotations\":{\"k\":\"v\"},\"config\":{\"x\":1}}\n",
			"{ \"layers\" : [ {\"digest\":\"" + string(digestA) + "\",\"x\":[1.50]}," + text + "] ,\n \"future\":{\"a\":1e3,\"a\":\"<&>\"}, \"annotations\":{\"k\":\"v\"},\"config\":{\"x\":1}}\n",
		},
		{"no layer", `{"config":{},"layers":[ ]}`, `{"config":{},"layers":[` + text + `]}`},
		{"null layers", `{"config":{},"layers": null , "x":1}`, `{"config":{},"layers": [` + text + `] , "x":1}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			present, err := readAttachment("test", found(test.before))
			require.NoError(t, err)
			merged, err := present.with("test", change{add: []descriptor{ours}})
			require.NoError(t, err)
			require.Equal(t, test.after, string(merged))
			again, err := readAttachment("test", found(string(merged)))
			require.NoError(t, err)
			require.Len(t, again.entries, len(present.entries)+1)
		})
	}
}

func TestWhatIsNoAttachmentIsNotTouched(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"not JSON":      `hello`,
		"array":         `[]`,
		"cut":           `{"config":{},"layers":[]`,
		"two manifests": `{"config":{},"layers":[]}{}`,
		"two layers":    `{"config":{},"layers":[],"layers":[]}`,
		"no layers":     `{"config":{}}`,
		"no config":     `{"layers":[]}`,
		"text layers":   `{"config":{},"layers":"none"}`,
	} {
		_, err := readAttachment("app:sha256-a.sig", found(body))
		var conflict *ConflictError
		require.ErrorAs(t, err, &conflict, name)
		require.ErrorContains(t, err, "app:sha256-a.sig", name)
	}
}

func TestAFullAttachmentIsNotMadeUnreadable(t *testing.T) {
	t.Parallel()
	ours := []descriptor{signatureLayer([]byte("payload"), []byte("signature"), time.Time{})}
	var conflict *ConflictError

	layers := strings.TrimSuffix(strings.Repeat("{},", maxLayers), ",")
	present, err := readAttachment("test", found(`{"config":{},"layers":[`+layers+`]}`))
	require.NoError(t, err)
	_, err = (&tagged{}).compose("test", present, change{add: ours})
	require.ErrorAs(t, err, &conflict)

	present, err = readAttachment("test", found(`{"config":{},"x":"`+strings.Repeat("x", maxAttachment-100)+`","layers":[]}`))
	require.NoError(t, err)
	_, err = present.with("test", change{add: ours})
	require.ErrorAs(t, err, &conflict)
}

// carries tells whether a signature by the key over the payload is there.
func carries(a attachment, key *Key, payload []byte) bool {
	return (&tagSignature{key: key, payload: payload, digest: digest.FromBytes(payload)}).in(a)
}

func TestASignatureIsRecognised(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	payload := []byte("payload")
	made, err := key.sign(t.Context(), payload)
	require.NoError(t, err)
	with := func(alter func(*descriptor)) attachment {
		layer := signatureLayer(payload, made, time.Time{})
		alter(&layer)
		present, err := readAttachment("test", found(`{"config":{},"layers":[{"mediaType":"text/plain"},`+string(jsonOf(t, layer))+`]}`))
		require.NoError(t, err)
		return present
	}

	present := with(func(*descriptor) {})
	require.True(t, carries(present, key, payload))
	require.False(t, carries(present, other, payload))
	require.False(t, carries(present, key, []byte("another payload")))

	for name, alter := range map[string]func(*descriptor){
		"other blob":    func(d *descriptor) { d.Digest = digestB },
		"other type":    func(d *descriptor) { d.MediaType = "text/plain" },
		"no annotation": func(d *descriptor) { d.Annotations = nil },
		"not base64":    func(d *descriptor) { d.Annotations[signatureAnnotation] = "%" },
		"not its signature": func(d *descriptor) {
			d.Annotations[signatureAnnotation] = base64.StdEncoding.EncodeToString([]byte("x"))
		},
	} {
		require.False(t, carries(with(alter), key, payload), name)
	}
}

// FuzzMerge: whatever can be read is merged without a loss, and can be read again.
func FuzzMerge(f *testing.F) {
	f.Add([]byte(cosignAttachment))
	f.Add([]byte(`{"config":{},"layers":null}`))
	f.Add([]byte("{\n  \"layers\": [\n    {}\n  ],\n  \"config\": {}\n}\n"))
	f.Add([]byte(`{"config":{},"layers":[{"digest":"]"}],"x":"\"layers\":["}`))
	added := []descriptor{signatureLayer([]byte("payload"), []byte("signature"), time.Time{})}
	f.Fuzz(func(t *testing.T, body []byte) {
		present, err := readAttachment("test", found(string(body)))
		if err != nil {
			return
		}
		merged, err := present.with("test", change{add: added})
		if err != nil {
			return
		}
		again, err := readAttachment("test", found(string(merged)))
		require.NoError(t, err)
		require.Equal(t, len(present.entries)+1, len(again.entries))
		require.Equal(t, append(present.entries, again.entries[len(again.entries)-1]), again.entries)
		require.Equal(t, present.config, again.config)
		require.True(t, bytes.HasPrefix(merged, body[:present.list.from]))
		require.True(t, bytes.HasSuffix(merged, body[present.list.to:]))
	})
}
