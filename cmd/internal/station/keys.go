package station

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/sign"
)

// Fingerprints name the keys of the station, in their order.
func (s *Station) Fingerprints() []string {
	fingerprints := make([]string, 0, len(s.Keys))
	for _, key := range s.Keys {
		fingerprints = append(fingerprints, key.Fingerprint())
	}
	return fingerprints
}

// openKeys opens the keys one after the other, each in the memory of the one before
// it: an encrypted one takes 64 MiB for a moment. None of them may be one whose
// signatures go.
func openKeys(ctx context.Context, c Config, replaced []*sign.PublicKey) ([]*sign.Key, error) {
	var keys []*sign.Key
	files := make(map[string]string) // by the fingerprint of what is in them
	for _, file := range c.Settings.KeyFiles() {
		key, err := sign.LoadKey(file.Path, passphraseOf(ctx, c, file))
		if err != nil {
			return nil, err
		}
		if other, ok := files[key.Fingerprint()]; ok {
			return nil, fmt.Errorf("sigstore-key: %s and %s are one and the same key (%s): give each key once", other, file.Path, key.Fingerprint())
		}
		files[key.Fingerprint()] = file.Path
		if slices.ContainsFunc(replaced, func(old *sign.PublicKey) bool { return old.Fingerprint() == key.Fingerprint() }) {
			return nil, fmt.Errorf("replace-key: %s is the key to sign with, in %s: give the fingerprint of the old one", key.Fingerprint(), file.Path)
		}
		if warning := key.Warning(); warning != "" {
			c.Log.Warn(warning)
		}
		keys = append(keys, key)
		runtime.GC()
	}
	// Left to itself, the heap would be allowed to stay as large as that.
	debug.FreeOSMemory()
	return keys, nil
}

// replacedKeys finds the public keys whose signatures go, among those that were
// given: without them nobody could tell whose signature is whose.
func replacedKeys(ctx context.Context, c Config) ([]*sign.PublicKey, error) {
	wanted, err := c.Settings.Replaced()
	if err != nil {
		return nil, err
	}
	given := make(map[string]*sign.PublicKey)
	for _, path := range c.Settings.ReplacePublicKeys {
		key, err := sign.LoadPublicKey(path, passphraseOf(ctx, c, config.KeyFile{Path: path}))
		if err != nil {
			return nil, err
		}
		given[key.Fingerprint()] = key
	}
	var replaced []*sign.PublicKey
	for _, fingerprint := range wanted {
		key, ok := given[fingerprint]
		if !ok {
			return nil, fmt.Errorf("replace-key: no file of --replace-pubkey has the key %s: "+
				"its signatures are known by its public key, give that with --replace-pubkey", fingerprint)
		}
		replaced = append(replaced, key)
	}
	return replaced, nil
}

func passphraseOf(ctx context.Context, c Config, key config.KeyFile) func() ([]byte, error) {
	return func() ([]byte, error) { return config.Passphrase(ctx, key, c.Stdin, c.Prompt) }
}
