package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// Every kind of key, in every form on disk, signs so that both verifiers accept.
func TestEveryKindOfKey(t *testing.T) {
	t.Parallel()
	p256, p384, p521 := ec(t, elliptic.P256()), ec(t, elliptic.P384()), ec(t, elliptic.P521())
	rsa2048, rsa4096 := rsaKey(t, 2048), rsaKey(t, 4096)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for name, write := range map[string]func(*testing.T) peers.KeyPair{
		"p256-cosign":      func(t *testing.T) peers.KeyPair { return encrypted(t, p256) },
		"p256-cosign1":     func(t *testing.T) peers.KeyPair { return oldHeader(t, encrypted(t, p256)) },
		"p384-cosign":      func(t *testing.T) peers.KeyPair { return encrypted(t, p384) },
		"p521-cosign":      func(t *testing.T) peers.KeyPair { return encrypted(t, p521) },
		"rsa2048-cosign":   func(t *testing.T) peers.KeyPair { return encrypted(t, rsa2048) },
		"rsa4096-cosign":   func(t *testing.T) peers.KeyPair { return encrypted(t, rsa4096) },
		"ed25519-cosign":   func(t *testing.T) peers.KeyPair { return encrypted(t, ed) },
		"p256-sec1":        func(t *testing.T) peers.KeyPair { return plain(t, p256, "EC PRIVATE KEY", sec1(t, p256)) },
		"p384-pkcs8":       func(t *testing.T) peers.KeyPair { return plain(t, p384, "PRIVATE KEY", pkcs8(t, p384)) },
		"p521-sec1":        func(t *testing.T) peers.KeyPair { return plain(t, p521, "EC PRIVATE KEY", sec1(t, p521)) },
		"ed25519-pkcs8":    func(t *testing.T) peers.KeyPair { return plain(t, ed, "PRIVATE KEY", pkcs8(t, ed)) },
		"rsa2048-pkcs1":    func(t *testing.T) peers.KeyPair { return plain(t, rsa2048, "RSA PRIVATE KEY", pkcs1(rsa2048)) },
		"rsa4096-pkcs8":    func(t *testing.T) peers.KeyPair { return plain(t, rsa4096, "PRIVATE KEY", pkcs8(t, rsa4096)) },
		"empty-passphrase": emptyPassphrase,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			key := write(t)
			image, err := m.w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
			require.NoError(t, err)
			r := m.run("sign-submit", append(m.key(key), "--file", m.list(image.Reference),
				"--failed", m.failed(), "--tls-verify=false")...)
			require.Zero(t, r.code, r)
			requireSigned(t, m.w.registry.Access(), key.Public, image.Reference, image.ByDigest())
		})
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags func(*machine) []string
		says  []string
	}{
		"wrong passphrase": {
			func(m *machine) []string {
				return []string{"--sigstore-key", m.w.key.Private, "--sigstore-passphrase-file", m.write("wrong", "no")}
			},
			[]string{"passphrase"},
		},
		"no such file": {
			func(m *machine) []string {
				return []string{"--sigstore-key", m.path("absent.key"), "--sigstore-passphrase-file", m.write("pass", "x")}
			},
			[]string{"absent.key", "no such file"},
		},
		"not a key": {
			func(m *machine) []string {
				return []string{"--sigstore-key", m.write("text.key", "hello"), "--sigstore-passphrase-file", m.write("pass", "x")}
			},
			[]string{"text.key"},
		},
		"no passphrase and nobody to ask": {
			func(m *machine) []string { return []string{"--sigstore-key", m.w.key.Private} },
			[]string{"passphrase"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			image, err := m.w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
			require.NoError(t, err)
			r := m.run("sign-submit", append(c.flags(m), "--file", m.list(image.Reference),
				"--failed", m.failed(), "--tls-verify=false")...)
			require.Positive(t, r.code, r)
			for _, text := range c.says {
				require.Contains(t, r.stderr, text)
			}
			require.NotContains(t, r.String(), "goroutine ")
			requireUnsigned(t, m.w.pusher, image, image.Digest)
		})
	}
}

func TestKeyThatOthersMayReadIsWarnedOf(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	private, err := os.ReadFile(m.w.key.Private)
	require.NoError(t, err)
	key := m.w.key
	key.Private = m.write("shared.key", string(private))
	require.NoError(t, os.Chmod(key.Private, 0o644))
	image, err := m.w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)

	r := m.run("sign-submit", append(m.key(key), "--file", m.list(image.Reference),
		"--failed", m.failed(), "--tls-verify=false")...)

	require.Zero(t, r.code, r)
	require.Contains(t, r.stderr, "shared.key")
	requireSigned(t, m.w.registry.Access(), key.Public, image.Reference)
}

func ec(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return key
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return key
}

// encrypted is the key as cosign import-key-pair writes it.
func encrypted(t *testing.T, key crypto.Signer) peers.KeyPair {
	t.Helper()
	file := writePEM(t, filepath.Join(t.TempDir(), "raw.pem"), "PRIVATE KEY", pkcs8(t, key))
	pair, err := peers.ImportKey(t.Context(), t.TempDir(), file, "a passphrase, with spaces")
	require.NoError(t, err)
	return pair
}

// oldHeader makes of a key file what cosign 1 and skopeo write.
func oldHeader(t *testing.T, key peers.KeyPair) peers.KeyPair {
	t.Helper()
	data, err := os.ReadFile(key.Private)
	require.NoError(t, err)
	changed := bytes.ReplaceAll(data, []byte("ENCRYPTED SIGSTORE"), []byte("ENCRYPTED COSIGN"))
	require.NotEqual(t, data, changed)
	require.NoError(t, os.WriteFile(key.Private, changed, 0o600))
	return key
}

// plain is the key in a file without encryption.
func plain(t *testing.T, key crypto.Signer, kind string, der []byte) peers.KeyPair {
	t.Helper()
	dir := t.TempDir()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	return peers.KeyPair{
		Private: writePEM(t, filepath.Join(dir, "plain.key"), kind, der),
		Public:  writePEM(t, filepath.Join(dir, "plain.pub"), "PUBLIC KEY", public),
	}
}

func emptyPassphrase(t *testing.T) peers.KeyPair {
	t.Helper()
	pair, err := peers.GenerateKey(t.Context(), t.TempDir(), "")
	require.NoError(t, err)
	return pair
}

func pkcs8(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return der
}

func sec1(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	return der
}

func pkcs1(key *rsa.PrivateKey) []byte { return x509.MarshalPKCS1PrivateKey(key) }

func writePEM(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}
