package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/dsa" //nolint:staticcheck // to see it refused
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/stretchr/testify/require"
)

const (
	secret = "correct horse battery staple"

	rfcFingerprint = "sha256:5a7a78cca4a0f420d9bc62bb669c3c2759e39f723d3ae10dcbe0f0815a07ecd4"
)

func passphrase(text string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(text), nil }
}

func noPassphrase() ([]byte, error) { return nil, errors.New("nobody should have asked") }

// rfcKey is the P-256 key of RFC 6979, A.2.5: a key that is the same in every run.
func rfcKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	scalar, err := hex.DecodeString("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721")
	require.NoError(t, err)
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	require.NoError(t, err)
	return private
}

// newKey makes a key pair of its own for a test.
func newKey(t testing.TB) *Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key, err := newMemoryKey(private)
	require.NoError(t, err)
	return key
}

// privateKeys has one of every type that is accepted.
func privateKeys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{
		"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521(),
	} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		keys[name] = private
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	keys["Ed25519"] = private
	for name, bits := range map[string]int{"RSA 2048": 2048, "RSA 2560": 2560} {
		private, err := rsa.GenerateKey(rand.Reader, bits)
		require.NoError(t, err)
		keys[name] = private
	}
	return keys
}

func pkcs8(t testing.TB, private any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// encrypted is the key in the form of cosign; skopeo and cosign 1 have another
// header on the same content. It takes a while.
func encrypted(t testing.TB, private any, secret string) (sigstore, cosign []byte) {
	t.Helper()
	body, err := cryptoutils.MarshalPrivateKeyToEncryptedDER(private, func(bool) ([]byte, error) { return []byte(secret), nil })
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: body}),
		pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED COSIGN PRIVATE KEY", Bytes: body})
}

// oldCipher is the key encrypted in the way of old versions of openssl, which
// is quick to read.
func oldCipher(t testing.TB, private *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	block, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte(secret), x509.PEMCipherAES256) //nolint:staticcheck // such files exist
	require.NoError(t, err)
	return pem.EncodeToMemory(block)
}

func TestEveryKeyTypeSignsWhatVerifiersAccept(t *testing.T) {
	t.Parallel()
	for name, private := range privateKeys(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(pkcs8(t, private), noPassphrase)
			require.NoError(t, err)

			made, err := key.sign(t.Context(), []byte("payload"))
			require.NoError(t, err)
			again, err := key.sign(t.Context(), []byte("payload"))
			require.NoError(t, err)
			require.Equal(t, made, again, "signatures must not differ from run to run")

			// As cosign verify and containers/image read and use a public key.
			public, err := cryptoutils.UnmarshalPEMToPublicKey(key.PublicPEM())
			require.NoError(t, err)
			verifier, err := signature.LoadVerifier(public, crypto.SHA256)
			require.NoError(t, err)
			require.NoError(t, verifier.VerifySignature(bytes.NewReader(made), strings.NewReader("payload")))
			require.Error(t, verifier.VerifySignature(bytes.NewReader(made), strings.NewReader("another")))
			require.False(t, key.verifies(made, []byte("another")))
		})
	}
}

func TestECDSASignsByRFC6979(t *testing.T) {
	t.Parallel()
	key, err := newMemoryKey(rfcKey(t))
	require.NoError(t, err)
	made, err := key.sign(t.Context(), []byte("sample"))
	require.NoError(t, err)
	var parts struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(made, &parts)
	require.NoError(t, err)
	require.Equal(t, "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716", parts.R.Text(16))
	require.Equal(t, "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8", parts.S.Text(16))
	require.Equal(t, rfcFingerprint, key.Fingerprint())
}

func TestEveryFormOfAPrivateKeyIsRead(t *testing.T) {
	t.Parallel()
	private := rfcKey(t)
	want, err := newMemoryKey(private)
	require.NoError(t, err)
	sigstore, cosign := encrypted(t, private, secret)
	sec1, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	plainSEC1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})

	for name, test := range map[string]struct {
		text       []byte
		passphrase func() ([]byte, error)
	}{
		"cosign 2 and 3":        {sigstore, passphrase(secret)},
		"cosign 1 and skopeo":   {cosign, passphrase(secret)},
		"PKCS#8":                {pkcs8(t, private), noPassphrase},
		"SEC 1":                 {plainSEC1, nil},
		"openssl's parameters":  {append(parameters, plainSEC1...), noPassphrase},
		"openssl's old cipher":  {oldCipher(t, private), passphrase(secret)},
		"Windows line ends":     {bytes.ReplaceAll(pkcs8(t, private), []byte("\n"), []byte("\r\n")), noPassphrase},
		"text around the block": {append([]byte("my key:\n"), pkcs8(t, private)...), noPassphrase},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := ParseKey(test.text, test.passphrase)
			require.NoError(t, err)
			require.Equal(t, want.Fingerprint(), key.Fingerprint())
		})
	}
}

func TestPKCS1IsRead(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	key, err := ParseKey(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}), nil)
	require.NoError(t, err)
	require.NotEmpty(t, key.Fingerprint())
}

func TestAnUnusableKeyIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	private := rfcKey(t)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	require.NoError(t, err)
	damaged := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: []byte(`{"kdf":{}}`)})
	dsaKey, err := asn1.Marshal(dsa.PrivateKey{X: big.NewInt(1), PublicKey: dsa.PublicKey{Y: big.NewInt(1), Parameters: dsa.Parameters{P: big.NewInt(1), Q: big.NewInt(1), G: big.NewInt(1)}}})
	require.NoError(t, err)

	for name, test := range map[string]struct {
		text       []byte
		passphrase func() ([]byte, error)
		want       error
		says       string
	}{
		"wrong passphrase":     {oldCipher(t, private), passphrase("wrong one"), ErrWrongPassphrase, "wrong passphrase"},
		"no passphrase at all": {damaged, nil, ErrPassphraseNeeded, "no passphrase was given"},
		"nobody to ask":        {damaged, noPassphrase, nil, "nobody should have asked"},
		"empty file":           {nil, noPassphrase, ErrNoKey, "no private key"},
		"no PEM":               {[]byte("hello"), noPassphrase, ErrNoKey, "PEM file is needed"},
		"public key":           {public, noPassphrase, ErrUnsupportedKey, "this is a public key"},
		"certificate":          {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}), noPassphrase, ErrUnsupportedKey, "CERTIFICATE"},
		"openssh":              {pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY"}), noPassphrase, ErrUnsupportedKey, "OPENSSH"},
		"DSA":                  {pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: dsaKey}), noPassphrase, ErrUnsupportedKey, "DSA"},
		"P-224":                {pkcs8(t, p224), noPassphrase, ErrUnsupportedKey, "P-224"},
		"RSA 1024":             {pkcs8(t, small), noPassphrase, ErrUnsupportedKey, "RSA of 1024 bits"},
		"X25519":               {pkcs8(t, x25519), noPassphrase, ErrUnsupportedKey, "ecdh"},
		"no DER":               {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("junk")}), noPassphrase, ErrUnsupportedKey, "PRIVATE KEY"},
		"damaged":              {damaged, passphrase(secret), ErrDamagedKey, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseKey(test.text, test.passphrase)
			var wrong *KeyError
			require.ErrorAs(t, err, &wrong)
			require.ErrorContains(t, err, test.says)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
			}
			require.NotContains(t, err.Error(), secret)
			require.NotContains(t, err.Error(), "wrong one")
		})
	}
}

func TestThePassphraseIsForgotten(t *testing.T) {
	t.Parallel()
	given := []byte(secret)
	_, err := ParseKey(oldCipher(t, rfcKey(t)), func() ([]byte, error) { return given, nil })
	require.NoError(t, err)
	require.Equal(t, make([]byte, len(secret)), given)
}

func TestAKeyFileIsNamedInErrorsAndWarnings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "cosign.key")
	require.NoError(t, os.WriteFile(path, oldCipher(t, rfcKey(t)), 0o600))

	key, err := LoadKey(path, passphrase(secret))
	require.NoError(t, err)
	require.Empty(t, key.Warning())
	require.Equal(t, rfcFingerprint, key.Fingerprint())

	require.NoError(t, os.Chmod(path, 0o640))
	key, err = LoadKey(path, passphrase(secret))
	require.NoError(t, err)
	require.Empty(t, key.Warning(), "so are secrets mounted in containers")
	require.NoError(t, os.Chmod(path, 0o644))
	key, err = LoadKey(path, passphrase(secret))
	require.NoError(t, err)
	require.Contains(t, key.Warning(), path)
	require.Contains(t, key.Warning(), "0644")

	_, err = LoadKey(path, passphrase("wrong"))
	require.ErrorIs(t, err, ErrWrongPassphrase)
	require.ErrorContains(t, err, path)

	_, err = LoadKey(filepath.Join(dir, "none.key"), noPassphrase)
	require.ErrorIs(t, err, fs.ErrNotExist)
	var wrong *KeyError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, filepath.Join(dir, "none.key"), wrong.File)
	require.NotEmpty(t, wrong.Remedy)

	_, err = LoadKey(dir, noPassphrase)
	require.ErrorIs(t, err, ErrNoKey)
}

func TestAGeneratedKeyIsEncryptedEvenWithoutAPassphrase(t *testing.T) {
	t.Parallel()
	private, public, err := GenerateKey(nil)
	require.NoError(t, err)
	require.Contains(t, string(private), "ENCRYPTED SIGSTORE PRIVATE KEY")
	key, err := ParseKey(private, passphrase(""))
	require.NoError(t, err)
	require.Equal(t, string(public), string(key.PublicPEM()))
	_, err = ParseKey(private, func() ([]byte, error) { return nil, nil })
	require.NoError(t, err)
	_, err = ParseKey(private, passphrase("x"))
	require.ErrorIs(t, err, ErrWrongPassphrase)
}

// brokenHolder signs with a key that is not the one it shows.
type brokenHolder struct {
	memoryKey
	shown crypto.PublicKey
}

func (b brokenHolder) Public() crypto.PublicKey { return b.shown }

func (b brokenHolder) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return b.memoryKey.Sign(ctx, message)
}

func TestASignatureThatDoesNotVerifyIsNotReturned(t *testing.T) {
	t.Parallel()
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key, err := NewKey(brokenHolder{memoryKey: memoryKey{private: rfcKey(t)}, shown: other.Public()})
	require.NoError(t, err)
	_, err = key.sign(t.Context(), []byte("payload"))
	require.ErrorIs(t, err, ErrInvalidSignature)
	require.ErrorContains(t, err, key.Fingerprint())
}
