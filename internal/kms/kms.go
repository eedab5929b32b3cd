// Package kms signs with keys that stay in a key management service: it opens
// them by their URI through sigstore's providers, and gives every call an end.
//
// It decides which services there are in this build, how long a call may take
// and what its failure is called, and which version of a key it signs with. It
// does not know what is signed, and never has a private key.
package kms

import (
	"context"
	"crypto"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	sigkms "github.com/sigstore/sigstore/pkg/signature/kms"
)

// clouds are the services whose clients are large: they are in builds with
// [CloudTag] only.
var clouds = []string{"awskms://", "gcpkms://", "azurekms://"}

// CloudTag is the build tag of the services of cloud providers.
const CloudTag = "kms_cloud"

var uri = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://`)

// IsURI reports whether the name of a key is a URI and no file, of a service that
// is known or not.
func IsURI(name string) bool { return uri.MatchString(name) }

// Options are the limits of the calls to a service. The zero value is that of
// a program.
type Options struct {
	// Timeout bounds each call; 0 is 30 seconds. An answer that comes later is
	// thrown away, since not every client can be told to stop.
	Timeout time.Duration
	// Vault, as far as it is set, comes before what the environment says.
	Vault Vault
}

// Vault says how a HashiCorp Vault or an OpenBao is reached.
type Vault struct {
	Address string // in place of VAULT_ADDR
	Token   string // in place of VAULT_TOKEN
	Mount   string // in place of TRANSIT_SECRET_ENGINE_PATH
}

const defaultTimeout = 30 * time.Second

// Open opens a key to sign with. It signs once, something that is no signature of
// an image: a key that cannot be used is known before anything is begun with it.
// Errors are of type [*SettingError], or [*Error] where the service has its part
// in it.
func Open(ctx context.Context, uri string, o Options) (*Holder, error) {
	h, err := newHolder(uri, o)
	if err != nil {
		return nil, err
	}
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// PublicKey reads the public half of a key, to verify with.
func PublicKey(ctx context.Context, uri string, o Options) (crypto.PublicKey, error) {
	h, err := newHolder(uri, o)
	if err != nil {
		return nil, err
	}
	c, err := h.dial(ctx, &h.signing)
	if err != nil {
		return nil, err
	}
	return c.publicKey(ctx)
}

func newHolder(uri string, o Options) (*Holder, error) {
	if err := Check(uri); err != nil {
		return nil, err
	}
	h := &Holder{uri: uri, options: o}
	if h.options.Timeout <= 0 {
		h.options.Timeout = defaultTimeout
	}
	h.signing.most, h.probing.most = 512, 32
	return h, nil
}

// vaultKey is what sigstore's client takes.
var vaultKey = regexp.MustCompile(`^[a-z]+://[^/]+$`)

// Check refuses a URI that no service of this build is behind, with a
// [*SettingError]. Left to itself, the registry of providers would look for a
// program to run.
func Check(uri string) error {
	known := sigkms.SupportedProviders()
	slices.Sort(known)
	is := func(scheme string) bool { return strings.HasPrefix(uri, scheme) }
	switch {
	case isVault(uri) && !vaultKey.MatchString(uri):
		return &SettingError{URI: uri, Reason: "it names no key: write hashivault://KEY, and the engine in TRANSIT_SECRET_ENGINE_PATH"}
	case slices.ContainsFunc(known, is):
		return nil
	case slices.ContainsFunc(clouds, is):
		return &SettingError{URI: uri, Reason: fmt.Sprintf("this build has no client for it: build the programs with -tags=containers_image_openpgp,%s "+
			"(make build/cloud)", CloudTag)}
	}
	for _, scheme := range clouds {
		if !slices.Contains(known, scheme) {
			known = append(known, scheme+" (in builds with the tag "+CloudTag+")")
		}
	}
	return &SettingError{URI: uri, Reason: "no key management service is known by that name; those that are: " + strings.Join(known, ", ")}
}
