package sign_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/sign"
)

func TestPublicKeysAreRead(t *testing.T) {
	t.Parallel()
	private, public, err := sign.GenerateKey([]byte("secret"))
	require.NoError(t, err)
	want, err := sign.ParsePublicKey(public, nil)
	require.NoError(t, err)
	require.Equal(t, string(public), string(want.PublicPEM()))
	for name, text := range map[string][]byte{
		"public": public, "private": private, "with words before it": append([]byte("release key\n"), public...),
		"with something else before it": append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{1}}), public...),
	} {
		path := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.WriteFile(path, text, 0o600))
		key, err := sign.LoadPublicKey(path, func() ([]byte, error) { return []byte("secret"), nil })
		require.NoError(t, err, name)
		require.Equal(t, want.Fingerprint(), key.Fingerprint(), name)
	}
	pair, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	old, err := sign.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&pair.PublicKey)}), nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&pair.PublicKey)
	require.NoError(t, err)
	usual, err := sign.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil)
	require.NoError(t, err)
	require.Equal(t, usual.Fingerprint(), old.Fingerprint())
}

func TestWhatIsNoPublicKey(t *testing.T) {
	t.Parallel()
	private, _, err := sign.GenerateKey([]byte("secret"))
	require.NoError(t, err)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&short.PublicKey)
	require.NoError(t, err)
	block := func(kind string, content []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
	}
	for _, test := range []struct {
		text []byte
		is   error
		says string
	}{
		{nil, sign.ErrNoPublicKey, "a PEM file is needed"},
		{[]byte("ssh-ed25519 AAAA"), sign.ErrNoPublicKey, "a PEM file is needed"},
		{block("CERTIFICATE", []byte{1}), sign.ErrNoPublicKey, "openssl x509 -pubkey"},
		{block("PUBLIC KEY", []byte{1}), sign.ErrUnsupportedKey, "is the file whole?"},
		{block("PUBLIC KEY", der), sign.ErrUnsupportedKey, "RSA of 1024 bits"},
		{private, sign.ErrPassphraseNeeded, ""},
	} {
		_, err := sign.ParsePublicKey(test.text, nil)
		require.ErrorIs(t, err, test.is)
		require.ErrorContains(t, err, test.says)
		var wrong *sign.KeyError
		require.ErrorAs(t, err, &wrong)
	}
	_, err = sign.LoadPublicKey("nowhere.pub", nil)
	require.ErrorContains(t, err, "nowhere.pub")
	_, err = sign.ParsePublicKey(private, func() ([]byte, error) { return []byte("wrong"), nil })
	require.ErrorIs(t, err, sign.ErrWrongPassphrase)
}
