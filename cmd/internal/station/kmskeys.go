package station

import (
	"context"
	"errors"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/kms"
	"github.com/signfleet/signfleet/internal/sign"
)

// openHeld opens a key in a key management service. It is opened anew at each
// reload: only then is it known whether it has been rotated.
func openHeld(ctx context.Context, uri string) (openKey, error) {
	holder, err := kms.Open(ctx, uri, kms.Options{})
	if err != nil {
		return openKey{}, err
	}
	key, err := sign.NewKey(holder)
	return openKey{Key: key, path: uri, held: holder}, err
}

// PublicKey reads a public key: from a file, or from a key management service.
func PublicKey(ctx context.Context, name string, passphrase func() ([]byte, error)) (*sign.PublicKey, error) {
	if !kms.IsURI(name) {
		return sign.LoadPublicKey(name, passphrase)
	}
	public, err := kms.PublicKey(ctx, name, kms.Options{})
	if err != nil {
		return nil, err
	}
	return sign.NewPublicKey(public)
}

// Mistake makes a UsageError of what kept a station from being built, or a key from
// being read; but not where a service is away, or does not let us: that may be
// mended elsewhere.
func Mistake(err error) error {
	var away *kms.Error
	if err == nil || errors.As(err, &away) {
		return err
	}
	return program.UsageError{Err: err}
}

// Away reports whether an image came to nothing because a key management service
// was away or did not let us. It makes the station the [worker.Keys] of its worker.
// What is wrong with one key alone is a failure of the images that it is for.
func (s *Station) Away(err error) bool {
	return errors.Is(err, kms.ErrUnreachable) || errors.Is(err, kms.ErrThrottled) || errors.Is(err, kms.ErrDenied)
}

// Probe signs with each key that is in a key management service, and says why that
// is away, if it is.
func (s *Station) Probe(ctx context.Context) error {
	for _, key := range s.desk.Load().keys {
		if key.held == nil {
			continue
		}
		if err := key.held.Probe(ctx); s.Away(err) || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// KeysUsable returns an error while a key cannot be used.
func (s *Station) KeysUsable() error {
	if w := s.worker.Load(); w != nil {
		return w.KeysUsable()
	}
	return nil
}
