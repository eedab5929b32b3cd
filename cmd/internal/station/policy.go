package station

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/policy"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
)

// loadPolicy reads the policy that images are held to before they are signed, and
// says which file that is. The gate is nil where there is none, or one that
// accepts all.
func loadPolicy(c Config) (held sign.Gate, file string, err error) {
	s := c.Settings
	if s.InsecurePolicy {
		return nil, "", nil
	}
	file = s.Policy
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "" // the system's policy is left
		}
		if file, err = policy.Find(policy.DefaultFiles(home)); err != nil {
			return nil, "", err
		}
	}
	if file == "" {
		c.Log.Info("no policy file anywhere: no image is held to one before it is signed")
		return nil, "", nil
	}
	client := s.Registry(c.Source, userAgent(), c.Log)
	p, err := policy.Load(file, policy.Access{
		AuthFile: client.AuthFile, CertsDir: client.CertsDir, RegistriesConf: client.RegistriesConf, RegistriesDir: client.RegistriesDir,
		TLSVerify: client.TLSVerify, UserAgent: client.UserAgent,
	})
	if err != nil {
		return nil, file, err
	}
	c.Log.Debug("policy read", zap.String("file", file))
	if p.AcceptsAll() {
		return nil, file, nil
	}
	return gate{p}, file, nil
}

// gate says what a policy says in the words of those who sign.
type gate struct{ policy *policy.Policy }

// Allow returns nil, a *[sign.RejectedError], or what kept the policy from being
// evaluated, as a *[registry.Error].
func (g gate) Allow(ctx context.Context, image string, manifest digest.Digest) error {
	err := g.policy.Allow(ctx, image, manifest)
	var rejected *policy.RejectedError
	var access *policy.AccessError
	switch {
	case errors.As(err, &rejected):
		return &sign.RejectedError{Reference: image, Reason: "policy " + rejected.File + ": " + rejected.Reason}
	case errors.As(err, &access) && !errors.As(err, new(*fs.PathError)): // a key of the policy's is no registry's fault
		unread := registry.NewForeignClientError(ctx, "read the signatures that the policy asks for", image, access.Status, access.Err)
		// The image was found before: it is a mirror that lacks it, or is behind.
		unread.Foreign = access.Status == http.StatusNotFound
		return unread
	}
	return err
}
