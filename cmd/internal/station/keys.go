package station

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/kms"
	"github.com/signfleet/signfleet/internal/sign"
)

// openKey is a key, and what it was opened from.
type openKey struct {
	*sign.Key
	path  string
	stamp config.Stamp
	held  *kms.Holder // nil where it is in memory
}

// isCalled reports whether a name in a rule means the key.
func (k openKey) isCalled(name string) bool {
	return name == k.path || "sha256:"+strings.TrimPrefix(strings.ToLower(name), "sha256:") == k.Fingerprint()
}

// Fingerprints name the keys of the station, in their order.
func (s *Station) Fingerprints() []string {
	var fingerprints []string
	for _, key := range s.desk.Load().keys {
		fingerprints = append(fingerprints, key.Fingerprint())
	}
	return fingerprints
}

// openKeys opens the keys one after the other, each in the memory of the one before
// it: an encrypted one takes 64 MiB for a moment. One whose file is as it was stays
// open. None of them may be one whose signatures go.
func openKeys(ctx context.Context, c Config, replaced []*sign.PublicKey, former *desk) ([]openKey, error) {
	var keys []openKey
	for _, file := range c.Settings.KeyFiles() {
		key, err := openOne(ctx, c, file, former)
		if err != nil {
			return nil, err
		}
		same := func(other openKey) bool { return other.Fingerprint() == key.Fingerprint() }
		if i := slices.IndexFunc(keys, same); i >= 0 {
			return nil, fmt.Errorf("sigstore-key: %s and %s are one and the same key (%s): give each key once", keys[i].path, file.Path, key.Fingerprint())
		}
		if slices.ContainsFunc(replaced, func(old *sign.PublicKey) bool { return old.Fingerprint() == key.Fingerprint() }) {
			return nil, fmt.Errorf("replace-key: %s is the key to sign with, in %s: give the fingerprint of the old one", key.Fingerprint(), file.Path)
		}
		if warning := key.Warning(); warning != "" {
			c.Log.Warn(warning)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, ErrNoKey
	}
	// Left to itself, the heap would be allowed to stay as large as that.
	debug.FreeOSMemory()
	return keys, nil
}

// openOne opens a key, unless it is in a file that former has open.
func openOne(ctx context.Context, c Config, file config.KeyFile, former *desk) (openKey, error) {
	if kms.IsURI(file.Path) {
		return openHeld(ctx, file.Path)
	}
	stamp := config.StampOf(file.Path)
	if former != nil {
		for _, key := range former.keys {
			if key.path == file.Path && key.stamp.Same(stamp) {
				return key, nil
			}
		}
	}
	key, err := sign.LoadKey(file.Path, passphraseOf(ctx, c, file))
	runtime.GC()
	return openKey{Key: key, path: file.Path, stamp: stamp}, err
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
		key, err := PublicKey(ctx, path, passphraseOf(ctx, c, config.KeyFile{Path: path}))
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

// ErrNoKey says that no key was named.
var ErrNoKey = errors.New("no key to sign with: name one with --sigstore-key")

func passphraseOf(ctx context.Context, c Config, key config.KeyFile) func() ([]byte, error) {
	return func() ([]byte, error) { return config.Passphrase(ctx, key, c.Stdin, c.Prompt) }
}
