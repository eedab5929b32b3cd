package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sigstore/sigstore/pkg/signature"
	sigkms "github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// probe is what is signed to see that a key can be used: nothing that anybody
// could take for the signature of an image.
const probe = "signfleet: a look whether this key can be used, and no signature of anything\n"

// Holder is a key in a service. It signs with one version of it, the one that was
// the latest when it was opened, whatever is done to the key later. It is safe for
// concurrent use.
type Holder struct {
	uri     string
	options Options
	public  crypto.PublicKey
	version string // of the key; empty where the service does not tell versions apart

	signing, probing line

	mu     sync.Mutex
	client *client
}

// URI names the key.
func (h *Holder) URI() string { return h.uri }

// Public is the public half of the key.
func (h *Holder) Public() crypto.PublicKey { return h.public }

// Sign signs a message: over its SHA-256, or itself where the key is an Ed25519
// one. Errors are of type [*Error].
func (h *Holder) Sign(ctx context.Context, message []byte) ([]byte, error) {
	h.mu.Lock()
	c := h.client
	h.mu.Unlock()
	return h.signWith(ctx, c, message)
}

// Probe finds out whether the key can be used, with a new connection and what the
// environment has for credentials now. What is signed afterwards uses them too.
// One caller at a time.
func (h *Holder) Probe(ctx context.Context) error {
	c, err := h.dial(ctx, &h.probing)
	if err != nil {
		return err
	}
	if _, err := h.signWith(ctx, c, []byte(probe)); err != nil {
		return err
	}
	c.line = &h.signing
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client = c
	return nil
}

// signWith signs with the version that was opened, and looks for the reason where
// that cannot be.
func (h *Holder) signWith(ctx context.Context, c *client, message []byte) ([]byte, error) {
	made, _, err := c.sign(ctx, h.public, h.version, message)
	switch {
	case errors.Is(err, ErrRefused):
	case err != nil:
		return nil, err
	// A version that was asked for does not change. Whoever signs verifies what
	// was signed: there it is not done twice.
	case h.version != "" || verifies(h.public, made, message):
		return made, nil
	default:
		err = c.failed("sign", fmt.Errorf("%w", ErrMisfit))
	}
	if h.isRotated(ctx, c.line) {
		err = c.failed("sign", ErrRotated)
	}
	return nil, err
}

// isRotated reports whether the service gives another public key by now. A new
// client asks: the others remember what they were told.
func (h *Holder) isRotated(ctx context.Context, l *line) bool {
	c, err := h.dial(ctx, l)
	if err != nil {
		return false
	}
	public, err := c.publicKey(ctx)
	return err == nil && !equal(public, h.public)
}

// open reads the key, and signs with it to see that it can and with which version.
func (h *Holder) open(ctx context.Context) error {
	for again := true; ; again = false {
		c, err := h.dial(ctx, &h.signing)
		if err != nil {
			return err
		}
		public, err := c.publicKey(ctx)
		if err != nil {
			return err
		}
		made, version, err := c.sign(ctx, public, "", []byte(probe))
		if err != nil {
			return err
		}
		if verifies(public, made, []byte(probe)) {
			h.public, h.version, h.client = public, version, c
			return nil
		}
		if !again { // a key may be rotated in between, but not twice
			return c.failed("sign", ErrMisfit)
		}
	}
}

// client is one connection to the service.
type client struct {
	*Holder
	verifier sigkms.SignerVerifier
	line     *line
	secrets  []string // that no text may have in it
}

// dial makes a client. Its calls count in line.
func (h *Holder) dial(ctx context.Context, l *line) (*client, error) {
	c := &client{Holder: h, line: l}
	var opts []signature.RPCOption
	if isVault(h.uri) {
		auth, err := h.options.Vault.complete()
		if err != nil {
			return nil, &SettingError{URI: h.uri, Reason: clean(err.Error(), nil)}
		}
		c.secrets = append(c.secrets, auth.Token)
		opts = append(opts, options.WithRPCAuthOpts(auth))
	}
	var err error
	c.verifier, err = call(ctx, c, "open", func(ctx context.Context) (sigkms.SignerVerifier, error) {
		ctx = context.WithoutCancel(ctx) // some get new tokens with it later
		return sigkms.Get(ctx, h.uri, crypto.SHA256, append(opts, options.WithContext(ctx))...)
	})
	return c, err
}

func (c *client) publicKey(ctx context.Context) (crypto.PublicKey, error) {
	return call(ctx, c, "read the public key", func(ctx context.Context) (crypto.PublicKey, error) {
		return c.verifier.PublicKey(options.WithContext(ctx))
	})
}

// sign signs with a version of the key, or with the latest, and returns which one
// that was, if the service says so.
func (c *client) sign(ctx context.Context, public crypto.PublicKey, version string, message []byte) (made []byte, used string, err error) {
	type signed struct {
		signature []byte
		version   string
	}
	hash := crypto.SHA256
	if _, pure := public.(ed25519.PublicKey); pure {
		hash = crypto.Hash(0) // the message itself
	}
	s, err := call(ctx, c, "sign", func(ctx context.Context) (s signed, err error) {
		opts := []signature.SignOption{options.WithContext(ctx), options.WithCryptoSignerOpts(hash)}
		if version != "" {
			opts = append(opts, options.WithKeyVersion(version))
		}
		s.signature, err = c.verifier.SignMessage(bytes.NewReader(message), append(opts, options.ReturnKeyVersionUsed(&s.version))...)
		return s, err
	})
	return s.signature, versionOf(s.version), err
}

// versionOf reads the version out of what Vault puts before a signature: vault:v3:.
func versionOf(prefix string) string {
	version, ok := strings.CutPrefix(strings.TrimSuffix(prefix, ":"), "vault:v")
	if !ok {
		return ""
	}
	return version
}

// verifies tells whether a signature is what verifiers of images expect.
func verifies(public crypto.PublicKey, made, message []byte) bool {
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	return err == nil && verifier.VerifySignature(bytes.NewReader(made), bytes.NewReader(message)) == nil
}

func equal(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}
