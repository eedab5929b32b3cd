package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// These are a signer's own share of one signature: what it costs beside the
// requests. A full signing against a registry is measured by test/bench.

const benchIdentity = "registry.example.com/team/app:v1.2.3"

func BenchmarkPayload(b *testing.B) {
	manifest := digest.FromString("manifest")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newPayload(benchIdentity, manifest, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(b, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(b, err)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(b, err)
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(b, err)
	payload, err := newPayload(benchIdentity, digest.FromString("manifest"), nil)
	require.NoError(b, err)
	for _, c := range []struct {
		name    string
		private crypto.PrivateKey
	}{{"P-256", p256}, {"P-384", p384}, {"Ed25519", edwards}, {"RSA-2048", rsa2048}} {
		b.Run(c.name, func(b *testing.B) {
			key, err := newMemoryKey(c.private)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := key.sign(b.Context(), payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMerge reads a manifest of so many signatures and adds one.
func BenchmarkMerge(b *testing.B) {
	for _, signatures := range []int{0, 1, 10, 100} {
		b.Run(strconv.Itoa(signatures), func(b *testing.B) {
			body := attachmentOf(b, signatures)
			added := change{add: []descriptor{signatureLayer([]byte("payload"), []byte("signature"), time.Time{})}}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				present, err := readAttachment("bench", found(body))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := present.with("bench", added); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAlreadySigned looks for a signature among ten.
func BenchmarkAlreadySigned(b *testing.B) {
	key := newKey(b)
	payload, err := newPayload(benchIdentity, digest.FromString("manifest"), nil)
	require.NoError(b, err)
	made, err := key.sign(b.Context(), payload)
	require.NoError(b, err)
	present, err := readAttachment("bench", found(attachmentOf(b, 9)))
	require.NoError(b, err)
	body, err := present.with("bench", change{add: []descriptor{signatureLayer(payload, made, time.Time{})}})
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		present, err := readAttachment("bench", found(string(body)))
		if err != nil {
			b.Fatal(err)
		}
		if !carries(present, key, payload) {
			b.Fatal("the signature is not seen")
		}
	}
}

func BenchmarkBundle(b *testing.B) {
	key, manifest := newKey(b), digest.FromString("manifest")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newBundle(b.Context(), key, manifest, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// attachmentOf is a manifest of so many signatures, each over a payload of its own.
func attachmentOf(b *testing.B, signatures int) string {
	b.Helper()
	layers := []descriptor{}
	for n := range signatures {
		layers = append(layers, signatureLayer([]byte("payload "+strconv.Itoa(n)), []byte("a signature of 71 bytes or so, as P-256 makes them, in base64"), time.Time{}))
	}
	text, err := json.Marshal(layers)
	require.NoError(b, err)
	return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":` +
		`{"mediaType":"application/vnd.oci.image.config.v1+json","size":67,"digest":"` + digest.FromString(constantConfig).String() +
		`"},"layers":` + string(text) + `}`
}
