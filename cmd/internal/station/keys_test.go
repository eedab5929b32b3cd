package station_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/sign"
)

// build makes a station of flags, with nobody at the terminal.
func build(t *testing.T, flags ...string) (*station.Station, error) {
	t.Helper()
	set := pflag.NewFlagSet("sign-worker", pflag.ContinueOnError)
	config.SigningFlags(set, station.Defaults(0))
	require.NoError(t, set.Parse(append(flags, "--insecure-policy")))
	source, err := config.Read(set, "no-such-program", "")
	require.NoError(t, err)
	var s config.Signing
	require.NoError(t, source.Into(&s))
	nobody, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer nobody.Close() //nolint:errcheck // only read
	st, err := station.New(context.WithoutCancel(t.Context()), station.Config{
		Settings: s, Source: source, Stdin: nobody, Prompt: &bytes.Buffer{}, Log: zap.NewNop(),
	})
	if err == nil {
		t.Cleanup(st.Close)
	}
	return st, err
}

// pair is a key pair in files.
type pair struct{ private, public, passphrase, fingerprint string }

// encrypted is a pair as cosign writes it.
func encrypted(t *testing.T, passphrase string) pair {
	t.Helper()
	private, public, err := sign.GenerateKey([]byte(passphrase))
	require.NoError(t, err)
	return pair{
		private: write(t, "p.key", private), public: write(t, "p.pub", public),
		passphrase: write(t, "pass", []byte(passphrase)), fingerprint: fingerprintOf(t, public),
	}
}

// plain is a pair that takes no time to open.
func plain(t *testing.T) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return pair{
		private: write(t, "p.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		public:  write(t, "p.pub", text), fingerprint: fingerprintOf(t, text),
	}
}

func fingerprintOf(t *testing.T, public []byte) string {
	t.Helper()
	block, _ := pem.Decode(public)
	require.NotNil(t, block)
	sum := sha256.Sum256(block.Bytes)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

func TestSeveralKeys(t *testing.T) {
	t.Parallel()
	one, two, open := encrypted(t, "one"), encrypted(t, "two"), plain(t)

	st, err := build(t, "-k", two.private, "-k", one.private, "-k", open.private,
		"--sigstore-passphrase-file", two.passphrase+","+one.passphrase+",")
	require.NoError(t, err)
	require.Equal(t, []string{two.fingerprint, one.fingerprint, open.fingerprint}, st.Fingerprints(), "in their order")

	_, err = build(t, "-k", two.private+","+one.private, "--sigstore-passphrase-file", two.passphrase)
	require.ErrorIs(t, err, sign.ErrWrongPassphrase, "one file is for all keys")
	require.ErrorContains(t, err, one.private)

	_, err = build(t, "-k", open.private+","+one.private, "--sigstore-passphrase-file", two.passphrase+",")
	require.ErrorIs(t, err, config.ErrNoPassphrase, "none for this one")
	require.ErrorContains(t, err, one.private)

	same := write(t, "copy.key", read(t, open.private))
	_, err = build(t, "-k", open.private, "-k", same)
	require.ErrorContains(t, err, open.private+" and "+same+" are one and the same key ("+open.fingerprint+")")
}

func TestKeysToReplace(t *testing.T) {
	t.Parallel()
	one, old, other := plain(t), plain(t), plain(t)
	buildWith := func(flags ...string) error {
		_, err := build(t, append(flags, "-k", one.private)...)
		return err
	}
	require.NoError(t, buildWith("--replace-key", old.fingerprint, "--replace-pubkey", other.public, "--replace-pubkey", old.public))

	for _, pubs := range [][]string{nil, {"--replace-pubkey", other.public}} {
		err := buildWith(append(pubs, "--replace-key", old.fingerprint)...)
		require.ErrorContains(t, err, old.fingerprint)
		require.ErrorContains(t, err, "give that with --replace-pubkey")
	}
	require.ErrorContains(t, buildWith("--replace-key", old.fingerprint, "--replace-pubkey", "nowhere.pub"), "nowhere.pub")
	require.ErrorContains(t, buildWith("--replace-key", one.fingerprint, "--replace-pubkey", one.public), "is the key to sign with")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}
