package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// minRSABits is the smallest RSA key that is accepted.
const minRSABits = 2048

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
	holder      KeyHolder
	verifier    signature.Verifier
	fingerprint string
	publicPEM   []byte
	warning     string
}

// NewKey makes a key of one that is held elsewhere.
func NewKey(holder KeyHolder) (*Key, error) {
	public := holder.Public()
	if err := checkPublic(public); err != nil {
		return nil, err
	}
	der, err := cryptoutils.MarshalPublicKeyToDER(public)
	if err != nil {
		return nil, &KeyError{Err: fmt.Errorf("%w: %w", ErrUnsupportedKey, err)}
	}
	// Not the default verifier of the key type: that would hash with SHA-384
	// or SHA-512, which neither cosign verify nor containers/image does.
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, &KeyError{Err: fmt.Errorf("%w: %w", ErrUnsupportedKey, err)}
	}
	sum := sha256.Sum256(der)
	return &Key{
		holder:      holder,
		verifier:    verifier,
		fingerprint: "sha256:" + hex.EncodeToString(sum[:]),
		publicPEM:   cryptoutils.PEMEncode(cryptoutils.PublicKeyPEMType, der),
	}, nil
}

// checkPublic refuses key types that some verifier of images would not take.
func checkPublic(public crypto.PublicKey) error {
	var reason string
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		reason = "ECDSA on the curve " + key.Params().Name
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSABits {
			return nil
		}
		reason = fmt.Sprintf("RSA of %d bits", key.N.BitLen())
	case ed25519.PublicKey:
		return nil
	default:
		reason = fmt.Sprintf("a %T", public)
	}
	return &KeyError{
		Err:    fmt.Errorf("%w: %s", ErrUnsupportedKey, reason),
		Remedy: "use ECDSA P-256, P-384 or P-521, RSA of 2048 bits or more, or Ed25519",
	}
}

// Fingerprint is "sha256:" and the hexadecimal SHA-256 of the public key in
// its DER PKIX form.
func (k *Key) Fingerprint() string { return k.fingerprint }

// PublicPEM is the public key that verifiers need.
func (k *Key) PublicPEM() []byte { return bytes.Clone(k.publicPEM) }

// Warning says what is wrong with the way the key is kept, though it can be
// used; empty when nothing is.
func (k *Key) Warning() string { return k.warning }

// sign signs a message, and verifies the signature as a verifier will: what
// does not verify must not reach a registry.
func (k *Key) sign(ctx context.Context, message []byte) ([]byte, error) {
	made, err := k.holder.Sign(ctx, message)
	if err != nil {
		return nil, &KeyError{Fingerprint: k.fingerprint, Err: fmt.Errorf("signing: %w", err)}
	}
	if !k.verifies(made, message) {
		return nil, &KeyError{Fingerprint: k.fingerprint, Err: ErrInvalidSignature}
	}
	return made, nil
}

// verifies tells whether the signature is this key's, over the message.
func (k *Key) verifies(made, message []byte) bool {
	return k.verifier.VerifySignature(bytes.NewReader(made), bytes.NewReader(message)) == nil
}

// verifiesSum tells whether the signature is this key's, over a message with
// the SHA-256. Ed25519 does not sign sums: it verifies none.
func (k *Key) verifiesSum(made, sum []byte) bool {
	return k.verifier.VerifySignature(bytes.NewReader(made), nil, options.WithDigest(sum)) == nil
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
