package sign

import (
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// ErrNoPublicKey says that what was read is no key to verify with. It comes in
// a [KeyError].
var ErrNoPublicKey = errors.New("no public key in it")

// LoadPublicKey reads a public key from a PEM file. A private key of any kind
// that [LoadKey] reads will do too, since it has its public half in it: then
// passphrase is asked as for signing. Errors are of type [*KeyError].
func LoadPublicKey(path string, passphrase func() ([]byte, error)) (*PublicKey, error) {
	// Everybody may read a public key: the warning is about private ones.
	text, _, err := readKeyFile(path)
	defer clear(text)
	if err != nil {
		return nil, aboutPublic(err)
	}
	key, err := ParsePublicKey(text, passphrase)
	if err != nil {
		return nil, withFile(err, path)
	}
	return key, nil
}

// ParsePublicKey reads a public key from PEM text, as [LoadPublicKey] does from
// a file. passphrase may be nil where no private key is expected.
func ParsePublicKey(text []byte, passphrase func() ([]byte, error)) (*PublicKey, error) {
	var others []string
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, notPublic(others)
		}
		if isPublic(block.Type) {
			if next, _ := pem.Decode(rest); next != nil && isPublic(next.Type) {
				return nil, &KeyError{Err: fmt.Errorf("%w: more than one", ErrUnsupportedKey), Remedy: "put each public key into a file of its own, and name all of them"}
			}
			public, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
			if err != nil {
				return nil, &KeyError{Err: fmt.Errorf("%w: %s: %w", ErrUnsupportedKey, block.Type, err), Remedy: "is the file whole?"}
			}
			return NewPublicKey(public)
		}
		if private, _ := privateType(block.Type); private {
			key, err := ParseKey(pem.EncodeToMemory(block), passphrase)
			if err != nil {
				return nil, err
			}
			return key.Public(), nil
		}
		others = append(others, block.Type)
	}
}

// aboutPublic makes of an error about a private key one about a public key.
func aboutPublic(err error) error {
	var wrong *KeyError
	if errors.As(err, &wrong) && errors.Is(wrong.Err, ErrNoKey) {
		public := *wrong
		public.Err = ErrNoPublicKey
		return &public
	}
	return err
}

func isPublic(name string) bool {
	return name == string(cryptoutils.PublicKeyPEMType) || name == string(cryptoutils.PKCS1PublicKeyPEMType)
}

// notPublic says what is there in place of a key.
func notPublic(others []string) error {
	wrong := &KeyError{Err: ErrNoPublicKey, Remedy: "a PEM file is needed, such as the .pub file of cosign generate-key-pair"}
	if len(others) > 0 {
		wrong.Err = fmt.Errorf("%w: %.128s", ErrNoPublicKey, strings.Join(others, ", "))
	}
	if len(others) == 1 && others[0] == string(cryptoutils.CertificatePEMType) {
		wrong.Remedy = "certificates are not trusted here, take its key alone: openssl x509 -pubkey -noout"
	}
	return wrong
}
