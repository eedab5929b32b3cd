package sign

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// maxKeyFile bounds what is read of a key file.
const maxKeyFile = 1 << 20

// LoadKey reads a private key from a PEM file: those that cosign and skopeo
// write, PKCS#8, SEC 1 and PKCS#1. Errors are of type [*KeyError].
//
// passphrase is asked once, and only when the key is encrypted. An empty
// passphrase is a passphrase. The slice it returns belongs to LoadKey, which
// overwrites it with zeros.
func LoadKey(path string, passphrase func() ([]byte, error)) (*Key, error) {
	text, warning, err := readKeyFile(path)
	defer clear(text)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(text, passphrase)
	if err != nil {
		return nil, withFile(err, path)
	}
	key.warning = warning
	return key, nil
}

// ParseKey reads a private key from PEM text, as [LoadKey] does from a file.
func ParseKey(text []byte, passphrase func() ([]byte, error)) (*Key, error) {
	block, err := findPrivateKey(text)
	if err != nil {
		return nil, err
	}
	defer clear(block.Bytes)
	var secret []byte
	defer func() { clear(secret) }()
	if isEncrypted(block) {
		if passphrase == nil {
			return nil, &KeyError{Err: ErrPassphraseNeeded}
		}
		secret, err = passphrase()
		if err != nil {
			return nil, &KeyError{Err: fmt.Errorf("asking for the passphrase: %w", err)}
		}
	}
	single := pem.EncodeToMemory(block)
	defer clear(single)
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(single, func(bool) ([]byte, error) {
		if secret == nil {
			// nil would mean "not encrypted" to the library.
			return []byte{}, nil
		}
		return secret, nil
	})
	if err != nil {
		return nil, whyUnreadable(block, err)
	}
	return newMemoryKey(private)
}

// GenerateKey makes an ECDSA P-256 key pair in the form of cosign
// generate-key-pair. The private key is encrypted, with an empty passphrase too.
func GenerateKey(passphrase []byte) (private, public []byte, err error) {
	private, public, err = cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), func(bool) ([]byte, error) {
		return append([]byte{}, passphrase...), nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("generating a key pair: %w", err)
	}
	return private, public, nil
}

// readKeyFile reads a key file of reasonable size, and warns of one that
// everybody can read.
func readKeyFile(path string) (text []byte, warning string, err error) {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, "", &KeyError{File: path, Err: withoutPath(err), Remedy: "is the path right and the file readable for this user?"}
	}
	defer file.Close() //nolint:errcheck // only read
	info, err := file.Stat()
	if err != nil {
		return nil, "", &KeyError{File: path, Err: withoutPath(err)}
	}
	if info.IsDir() {
		return nil, "", &KeyError{File: path, Err: ErrNoKey, Remedy: "this is a directory"}
	}
	text, err = io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return text, "", &KeyError{File: path, Err: withoutPath(err)}
	}
	if len(text) > maxKeyFile {
		return text, "", &KeyError{File: path, Err: ErrNoKey, Remedy: "too large to be a key file"}
	}
	// That a group may read it is how secrets are mounted for those who are not root.
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o004 != 0 {
		warning = fmt.Sprintf("key file %s can be read by everybody (mode %04o): chmod 600 %s",
			path, mode.Perm(), path)
	}
	return text, warning, nil
}

// withoutPath leaves the file's name to the KeyError around it.
func withoutPath(err error) error {
	var wrong *os.PathError
	if errors.As(err, &wrong) {
		return wrong.Err
	}
	return err
}

// findPrivateKey finds the private key among the blocks of a PEM text; openssl
// writes parameters in front of some.
func findPrivateKey(text []byte) (*pem.Block, error) {
	var others []string
	for rest := text; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if known, _ := privateType(block.Type); known {
			return block, nil
		}
		others = append(others, block.Type)
	}
	if len(others) == 0 {
		return nil, &KeyError{Err: ErrNoKey, Remedy: "a PEM file is needed, such as cosign generate-key-pair writes"}
	}
	wrong := &KeyError{
		Err:    fmt.Errorf("%w: %s", ErrUnsupportedKey, strings.Join(others, ", ")),
		Remedy: "convert it with: openssl pkcs8 -topk8 -nocrypt, or import it with: cosign import-key-pair",
	}
	if len(others) == 1 && strings.HasSuffix(others[0], "PUBLIC KEY") {
		wrong.Remedy = "this is a public key, the private key is needed"
	}
	return nil, wrong
}

// privateType tells the PEM types of the private keys that can be read, and
// which of them are encrypted in any case.
func privateType(name string) (known, encrypted bool) {
	switch name {
	case "ENCRYPTED SIGSTORE PRIVATE KEY", // cosign 2 and later
		"ENCRYPTED COSIGN PRIVATE KEY", // cosign 1, skopeo
		"ENCRYPTED PRIVATE KEY":        // PKCS#8, PBES2
		return true, true
	case "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY":
		return true, false
	}
	return false, false
}

// isEncrypted tells whether a passphrase is needed for the key.
func isEncrypted(block *pem.Block) bool {
	_, encrypted := privateType(block.Type)
	return encrypted || x509.IsEncryptedPEMBlock(block) //nolint:staticcheck // openssl's old encryption is weak, but such files exist
}

// whyUnreadable tells a wrong passphrase from a damaged key as well as the
// library's texts allow.
func whyUnreadable(block *pem.Block, err error) error {
	if !isEncrypted(block) {
		return &KeyError{
			Err:    fmt.Errorf("%w: %s: %w", ErrUnsupportedKey, block.Type, err),
			Remedy: "use ECDSA P-256, P-384 or P-521, RSA of 2048 bits or more, or Ed25519",
		}
	}
	// The authenticated encryption of cosign's keys fails with this text and no
	// other for a wrong passphrase; the older forms cannot tell one from noise.
	authenticated := strings.Contains(block.Type, "SIGSTORE") || strings.Contains(block.Type, "COSIGN")
	if authenticated && !strings.Contains(err.Error(), "decryption failed") {
		return &KeyError{Err: fmt.Errorf("%w: %w", ErrDamagedKey, err), Remedy: "restore the file from a copy"}
	}
	return &KeyError{Err: ErrWrongPassphrase, Remedy: "an empty passphrase is a passphrase too: check that the right one is read"}
}
