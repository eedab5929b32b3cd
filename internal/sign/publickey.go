package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// minRSABits is the smallest RSA key that is accepted.
const minRSABits = 2048

// PublicKey tells whether a signature is by its private half. It is safe for
// concurrent use.
type PublicKey struct {
	verifier    signature.Verifier
	sum         []byte // SHA-256 of its DER PKIX form
	fingerprint string
	publicPEM   []byte
}

// NewPublicKey makes a key to verify with of one that was read elsewhere.
func NewPublicKey(public crypto.PublicKey) (*PublicKey, error) {
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
	return &PublicKey{
		verifier:    verifier,
		sum:         sum[:],
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
func (k *PublicKey) Fingerprint() string { return k.fingerprint }

// PublicPEM is the public key as a PEM file has it.
func (k *PublicKey) PublicPEM() []byte { return bytes.Clone(k.publicPEM) }

// hint is how bundles name the key: its fingerprint in base64.
func (k *PublicKey) hint() string { return base64.StdEncoding.EncodeToString(k.sum) }

// verifies tells whether the signature is this key's, over the message.
func (k *PublicKey) verifies(made, message []byte) bool {
	return k.verifier.VerifySignature(bytes.NewReader(made), bytes.NewReader(message)) == nil
}

// verifiesSum tells whether the signature is this key's, over a message with
// the SHA-256. Ed25519 does not sign sums: it verifies none.
func (k *PublicKey) verifiesSum(made, sum []byte) bool {
	return k.verifier.VerifySignature(bytes.NewReader(made), nil, options.WithDigest(sum)) == nil
}
