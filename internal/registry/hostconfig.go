package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"

	"github.com/containers/image/v5/docker/policyconfiguration"
	"github.com/containers/image/v5/docker/reference"
	dockerconfig "github.com/containers/image/v5/pkg/docker/config"
	"github.com/containers/image/v5/pkg/sysregistriesv2"
	"github.com/containers/image/v5/pkg/tlsclientconfig"
	"github.com/containers/image/v5/types"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Docker Hub is named by one host and reached at another. Everything that a
// user writes (credentials, certs.d, registries.conf) goes by the first.
const (
	dockerHost = "docker.io"
	dockerAddr = "registry-1.docker.io"
)

// hostConfig is this machine's registry configuration, read by
// containers/image so that what podman and skopeo can reach is reached here
// unchanged. This file alone knows that library.
type hostConfig struct {
	system    *types.SystemContext
	certsDir  string
	tlsVerify *bool
}

func newHostConfig(o Options) (*hostConfig, error) {
	c := &hostConfig{
		system: &types.SystemContext{
			AuthFilePath:             o.AuthFile,
			SystemRegistriesConfPath: o.RegistriesConf,
		},
		certsDir:  o.CertsDir,
		tlsVerify: o.TLSVerify,
	}
	if _, err := sysregistriesv2.GetRegistries(c.system); err != nil {
		return nil, err
	}
	return c, nil
}

// resolve applies registries.conf to the name of a repository. Mirrors are not
// used: they are for reading, and may be behind.
func (c *hostConfig) resolve(name string) (target, error) {
	named, err := reference.ParseNamed(name)
	if err != nil {
		return target{}, fmt.Errorf("repository %q: %w", name, err)
	}
	if !reference.IsNameOnly(named) {
		return target{}, fmt.Errorf("repository %q: has a tag or digest", name)
	}
	named, insecure, err := c.rewrite(named, named.Name())
	if err != nil {
		return target{}, err
	}
	host := reference.Domain(named)
	return target{
		name:     named.Name(),
		host:     host,
		addr:     dialAddr(host),
		path:     reference.Path(named),
		insecure: insecure,
	}, nil
}

// resolveHost is resolve for a registry as a whole.
func (c *hostConfig) resolveHost(host string) (target, error) {
	named, err := reference.ParseNamed(host + "/any")
	if err != nil || reference.Domain(named) != host {
		return target{}, fmt.Errorf("registry %q is not a host name", host)
	}
	named, insecure, err := c.rewrite(named, host)
	if err != nil {
		return target{}, err
	}
	host = reference.Domain(named)
	return target{name: host, host: host, addr: dialAddr(host), insecure: insecure}, nil
}

// rewrite returns where the entry of registries.conf for scope leads named.
// What it leads to can have an entry of its own, which may block it or say
// that it is insecure, but is not followed any further.
func (c *hostConfig) rewrite(named reference.Named, scope string) (to reference.Named, insecure bool, err error) {
	entry, err := c.find(scope)
	if err != nil || entry == nil {
		return named, c.skipVerify(false), err
	}
	sources, err := entry.PullSourcesFromReference(named)
	if err != nil {
		return nil, false, err
	}
	primary := sources[len(sources)-1] // mirrors come first
	insecure = primary.Endpoint.Insecure
	if primary.Reference.Name() != named.Name() {
		next, err := c.find(primary.Reference.Name())
		if err != nil {
			return nil, false, err
		}
		insecure = insecure || next != nil && next.Insecure
	}
	return primary.Reference, c.skipVerify(insecure), nil
}

func (c *hostConfig) find(scope string) (*sysregistriesv2.Registry, error) {
	entry, err := sysregistriesv2.FindRegistry(c.system, scope)
	if err != nil {
		return nil, err
	}
	if entry != nil && entry.Blocked {
		return nil, &BlockedError{
			Repository: scope,
			Prefix:     entry.Prefix,
			Source:     sysregistriesv2.ConfigurationSourceDescription(c.system),
		}
	}
	return entry, nil
}

// skipVerify lets an explicit option win over the file, either way.
func (c *hostConfig) skipVerify(insecure bool) bool {
	if c.tlsVerify != nil {
		return !*c.tlsVerify
	}
	return insecure
}

func dialAddr(host string) string {
	if host == dockerHost {
		return dockerAddr
	}
	return host
}

// credential looks up what is stored for name, a repository or a host: for the
// repository first, then for what is above it up to the host. It reads anew
// each time, since files change and helpers hand out what expires.
func (c *hostConfig) credential(ctx context.Context, name string) (auth.Credential, error) {
	if ctx.Err() != nil {
		return auth.EmptyCredential, context.Cause(ctx)
	}
	stored, err := dockerconfig.GetCredentials(c.system, name)
	if err != nil {
		return auth.EmptyCredential, &CredentialError{Name: name, Err: err}
	}
	return auth.Credential{
		Username:     stored.Username,
		Password:     stored.Password,
		RefreshToken: stored.IdentityToken,
	}, nil
}

// setUpTLS adds the CAs and client certificates that are stored for host.
func (c *hostConfig) setUpTLS(host string, settings *tls.Config) error {
	dir, err := c.hostCertsDir(host)
	if err != nil {
		return fmt.Errorf("certificates for %s: %w", host, err)
	}
	if err := tlsclientconfig.SetupCertificates(dir, settings); err != nil {
		return fmt.Errorf("certificates for %s in %s: %w", host, dir, err)
	}
	return nil
}

// hostCertsDir is the first directory there is, in the order of
// containers/image, which keeps it to itself; the last when there is none.
func (c *hostConfig) hostCertsDir(host string) (string, error) {
	if c.certsDir != "" {
		return givenCertsDir(c.certsDir, host)
	}
	var dir string
	for _, parent := range []string{
		filepath.Join(homeDir(), ".config/containers/certs.d"),
		"/etc/containers/certs.d",
		"/etc/docker/certs.d",
	} {
		dir = filepath.Join(parent, host)
		_, err := os.Stat(dir)
		switch {
		case err == nil:
			return dir, nil
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		default:
			return "", err
		}
	}
	return dir, nil
}

// givenCertsDir is the directory of a host in one that was named: as certs.d has
// it, or the named one itself, as podman and skopeo take it, where that holds
// certificates.
func givenCertsDir(dir, host string) (string, error) {
	own := filepath.Join(dir, host)
	if _, err := os.Stat(own); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return own, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if ext := filepath.Ext(entry.Name()); !entry.IsDir() && (ext == ".crt" || ext == ".cert" || ext == ".key") {
			return dir, nil
		}
	}
	return own, nil
}

// homeDir is also known where HOME is not set, as in a service.
func homeDir() string {
	if dir, err := os.UserHomeDir(); err == nil {
		return dir
	}
	if current, err := user.Current(); err == nil {
		return current.HomeDir
	}
	return ""
}

// scopesAbove are the scopes of containers-registries.d(5) that can hold for a
// repository, the most specific first: itself, its parents, its host, and
// wildcards of its domain.
func scopesAbove(repository string) ([]string, error) {
	named, err := reference.ParseNamed(repository)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", repository, err)
	}
	return policyconfiguration.DockerReferenceNamespaces(named), nil
}
