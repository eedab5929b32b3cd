package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/internal/kms"
)

// keyFlags defines the flags of the keys to sign with.
func keyFlags(flags *pflag.FlagSet) {
	flags.StringSliceP("sigstore-key", "k", nil, "private `key` to sign with: a PEM file of cosign or hangar, or plain PKCS#8, SEC1 or PKCS#1, or the URI of a key in a KMS, as hashivault://name; several sign side by side: repeat it")
	flags.StringSlice("sigstore-passphrase-file", nil, "`file` with the passphrase of the key; of several keys: one file for all, or one for each that is a file, in the same order; without one it is asked for on a terminal")
}

// KeyFile is a private key, and the file with its passphrase, if there is one. A
// key in a key management service has its URI for a path, and no passphrase.
type KeyFile struct {
	Path, Passphrase string
}

// KeyFiles are the keys to sign with, in their order.
func (s Signing) KeyFiles() []KeyFile {
	files := make([]KeyFile, 0, len(s.Keys))
	nth := 0 // of those with a passphrase
	for _, path := range s.Keys {
		file := KeyFile{Path: path}
		switch {
		case kms.IsURI(path):
			files = append(files, file)
			continue
		case len(s.PassphraseFiles) == 1:
			file.Passphrase = s.PassphraseFiles[0]
		case len(s.PassphraseFiles) > 1:
			file.Passphrase = s.PassphraseFiles[nth]
		}
		nth++
		files = append(files, file)
	}
	return files
}

// InputFiles are the files that are read: none of them may be written to.
func (s Signing) InputFiles() []string {
	return slices.Concat(s.SigningFiles(), notEmpty(s.AuthFile), notEmpty(s.NATS.InputFiles()...))
}

// SigningFiles are the files that say what is signed and with what.
func (s Signing) SigningFiles() []string {
	return notEmpty(slices.Concat(Files(s.Keys), s.PassphraseFiles, Files(s.ReplacePublicKeys), []string{s.Policy})...)
}

// Files are those of the names of keys that are files, and not in a key management
// service.
func Files(keys []string) []string {
	return slices.DeleteFunc(slices.Clone(keys), kms.IsURI)
}

func notEmpty(files ...string) []string {
	return slices.DeleteFunc(files, func(file string) bool { return file == "" })
}

// checkKeys refuses files that do not go together.
func (s Signing) checkKeys() error {
	keys, passphrases := len(Files(s.Keys)), len(s.PassphraseFiles)
	switch {
	case passphrases > 1 && passphrases != keys:
		return fmt.Errorf("sigstore-passphrase-file: %d files for %d of sigstore-key: give one for all keys, or one for each in the same order",
			passphrases, keys)
	case passphrases > 0 && keys == 0 && len(s.Keys) > 0:
		return errors.New("sigstore-passphrase-file: keys in a KMS have no passphrase, and there are no others: leave it out")
	}
	for _, key := range s.Keys {
		if !kms.IsURI(key) {
			continue
		}
		if err := kms.Check(key); err != nil {
			return fmt.Errorf("sigstore-key: %w", err)
		}
	}
	if len(s.ReplacePublicKeys) > 0 && len(s.ReplaceKeys) == 0 {
		return errors.New("replace-pubkey: it only goes with replace-key, which says whose signatures go: " +
			"give the fingerprint of that key with --replace-key, or leave --replace-pubkey out; validate and inspect take --sigstore-pubkey")
	}
	_, err := s.Replaced()
	return err
}

// Replaced are the fingerprints of the keys whose signatures go, each once.
func (s Signing) Replaced() ([]string, error) {
	var fingerprints []string
	for _, text := range s.ReplaceKeys {
		fingerprint, ok := fingerprintOf(text)
		if !ok {
			return nil, fmt.Errorf("replace-key: %q is not the fingerprint of a key: write sha256: and 64 hexadecimal digits, "+
				"as results and logs name keys", text)
		}
		if !slices.Contains(fingerprints, fingerprint) {
			fingerprints = append(fingerprints, fingerprint)
		}
	}
	return fingerprints, nil
}

// fingerprintOf completes the fingerprint of a key.
func fingerprintOf(text string) (fingerprint string, ok bool) {
	sum := strings.ToLower(strings.TrimPrefix(strings.TrimSpace(text), "sha256:"))
	raw, err := hex.DecodeString(sum)
	return "sha256:" + sum, err == nil && len(raw) == 32
}
