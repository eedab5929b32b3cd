package sign

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
)

// KeyHolder is whatever holds a private key and signs with it: the memory of
// this process, a token, a key management service.
//
// Whatever the key, verifiers expect SHA-256: Sign hashes the message with it
// for ECDSA (ASN.1 signature) and RSA (PKCS#1 v1.5), and signs the message
// itself with pure Ed25519.
type KeyHolder interface {
	Public() crypto.PublicKey
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Key is a key pair that signs images. It is safe for concurrent use if its
// holder is; a key read by [LoadKey] or [ParseKey] is.
type Key struct {
	PublicKey
	holder  KeyHolder
	warning string
}

// NewKey makes a key of one that is held elsewhere.
func NewKey(holder KeyHolder) (*Key, error) {
	public, err := NewPublicKey(holder.Public())
	if err != nil {
		return nil, err
	}
	return &Key{PublicKey: *public, holder: holder}, nil
}

// Public is the half of the key that verifiers need.
func (k *Key) Public() *PublicKey { return &k.PublicKey }

// Warning says what is wrong with the way the key is kept, though it can be
// used; empty when nothing is.
func (k *Key) Warning() string { return k.warning }

// deterministic tells whether the key gives the same message the same signature
// each time: what it signs has then a known digest. A holder that does so says
// it by a method Deterministic; of others it is not assumed.
func (k *Key) deterministic() bool {
	holder, ok := k.holder.(interface{ Deterministic() bool })
	return ok && holder.Deterministic()
}

// sign signs a message, and verifies the signature as a verifier will: what
// does not verify must not reach a registry.
func (k *Key) sign(ctx context.Context, message []byte) (made []byte, err error) {
	ctx, end := begin(ctx, stageSign)
	defer func() { end(err) }()
	made, err = k.holder.Sign(ctx, message)
	if err != nil {
		return nil, &KeyError{Fingerprint: k.fingerprint, Err: fmt.Errorf("signing: %w", err)}
	}
	if !k.verifies(made, message) {
		return nil, &KeyError{Fingerprint: k.fingerprint, Err: ErrInvalidSignature}
	}
	return made, nil
}

// memoryKey is a private key in the memory of this process.
type memoryKey struct {
	private crypto.Signer
}

func (m memoryKey) Public() crypto.PublicKey { return m.private.Public() }

// Sign gives the same message the same signature, so it gives crypto.Signer no
// source of randomness: ECDSA then chooses its nonce by RFC 6979, and neither
// RSA PKCS#1 v1.5 nor Ed25519 needs any.
func (m memoryKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	if _, ok := m.private.(ed25519.PrivateKey); ok {
		return m.private.Sign(nil, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return m.private.Sign(nil, sum[:], crypto.SHA256)
}

// Deterministic says that Sign gives the same message the same signature.
func (m memoryKey) Deterministic() bool { return true }

// newMemoryKey makes a key of a private key that was read from a file.
func newMemoryKey(private crypto.PrivateKey) (*Key, error) {
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, &KeyError{Err: fmt.Errorf("%w: a %T", ErrUnsupportedKey, private)}
	}
	return NewKey(memoryKey{private: signer})
}

// withFile names the file in an error about its key.
func withFile(err error, file string) error {
	var wrong *KeyError
	if !errors.As(err, &wrong) {
		return &KeyError{File: file, Err: err}
	}
	named := *wrong
	named.File = file
	return &named
}
