package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// Key is a signing key in plain files: what its passphrase would cost each
// worker at its start is better spent on tormenting it.
type Key struct {
	Private, Public string // paths
	Fingerprint     string // as outcomes name it
	key             *ecdsa.PublicKey
}

// Verifies reports whether a signature over a message is this key's; the zero
// Key verifies none.
func (k Key) Verifies(message, signature []byte) bool {
	if k.key == nil {
		return false
	}
	sum := sha256.Sum256(message)
	return ecdsa.VerifyASN1(k.key, sum[:], signature)
}

func makeKey(dir, name string) (Key, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Key{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Key{}, err
	}
	k := Key{Private: filepath.Join(dir, name+".key"), Public: filepath.Join(dir, name+".pub"), key: &key.PublicKey}
	k.Fingerprint = fingerprint(public)
	if err := writePEM(k.Private, "PRIVATE KEY", private); err != nil {
		return Key{}, err
	}
	return k, writePEM(k.Public, "PUBLIC KEY", public)
}

// ReadKey reads a public key that another program made.
func ReadKey(path string) (Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Key{}, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return Key{}, fmt.Errorf("%s: no PEM", path)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Key{}, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return Key{}, fmt.Errorf("%s: a %T, not an ECDSA key", path, parsed)
	}
	return Key{Public: path, Fingerprint: fingerprint(block.Bytes), key: key}, nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
