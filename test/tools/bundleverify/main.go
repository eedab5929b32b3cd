// Command bundleverify asks sigstore-go whether an image has a bundle that is
// signed by a key. It exits 0 when it has, 1 when it has not, 2 when that could
// not be told.
package main

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// maxBundle is more than any bundle of a test has.
const maxBundle = 4 << 20

// errNone is the answer no.
var errNone = errors.New("no bundle is signed by the key")

func main() {
	err := run(context.Background(), os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, errNone) {
		os.Exit(1)
	}
	os.Exit(2)
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bundleverify", flag.ContinueOnError)
	key := flags.String("key", "", "public key `file`")
	plain := flags.Bool("plain-http", false, "the registry speaks http")
	if err := flags.Parse(args); err != nil {
		return err
	}
	verifier, err := trusting(*key)
	if err != nil {
		return err
	}
	bundles, of, err := bundlesOf(ctx, flags.Arg(0), *plain)
	if err != nil {
		return err
	}
	sum, err := hex.DecodeString(of.Hex)
	if err != nil {
		return err
	}
	reason := errNone
	for _, text := range bundles {
		var entity bundle.Bundle
		if err = entity.UnmarshalJSON(text); err == nil {
			_, err = verifier.Verify(&entity, verify.NewPolicy(verify.WithArtifactDigest(of.Algorithm, sum), verify.WithKey()))
		}
		if err == nil {
			return nil
		}
		reason = fmt.Errorf("%w: %w", reason, err)
	}
	return reason
}

// trusting makes a verifier that trusts one key at all times, and no log.
func trusting(file string) (*verify.Verifier, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return nil, err
	}
	by, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	always := root.NewExpiringKey(by, time.Time{}, time.Time{})
	keys := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return always, nil })
	return verify.NewVerifier(keys, verify.WithNoObserverTimestamps())
}

// bundlesOf reads the bundles that refer to an image, and its digest.
func bundlesOf(ctx context.Context, image string, plain bool) ([][]byte, v1.Hash, error) {
	var how []name.Option
	if plain {
		how = append(how, name.Insecure)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	ref, err := name.ParseReference(image, how...)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	found, err := remote.Get(ref, options...)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	index, err := remote.Referrers(ref.Context().Digest(found.Digest.String()), options...)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	referrers, err := index.IndexManifest()
	if err != nil {
		return nil, v1.Hash{}, err
	}
	var bundles [][]byte
	for _, entry := range referrers.Manifests {
		text, err := bundleIn(ref.Context().Digest(entry.Digest.String()), options)
		if err != nil {
			return nil, v1.Hash{}, err
		}
		if text != nil {
			bundles = append(bundles, text)
		}
	}
	return bundles, found.Digest, nil
}

// bundleIn reads the bundle of a referrer; nil when it is something else.
func bundleIn(referrer name.Digest, options []remote.Option) ([]byte, error) {
	image, err := remote.Image(referrer, options...)
	if err != nil {
		return nil, err
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		return nil, err
	}
	mediaType, err := layers[0].MediaType()
	if err != nil || !strings.HasPrefix(string(mediaType), "application/vnd.dev.sigstore.bundle") {
		return nil, err
	}
	body, err := layers[0].Compressed()
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // only read from
	return io.ReadAll(io.LimitReader(body, maxBundle))
}
