package registry_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a machine on which nothing is configured, and that speaks http.
func machine(t *testing.T) registry.Options {
	t.Helper()
	insecure := false
	return registry.Options{
		AuthFile:       writeFile(t, "auth.json", "{}"),
		CertsDir:       t.TempDir(),
		RegistriesConf: writeFile(t, "registries.conf", ""),
		RegistriesDir:  t.TempDir(),
		TLSVerify:      &insecure,
	}
}

func newClient(t *testing.T, o registry.Options) *registry.Client {
	t.Helper()
	c, err := registry.New(o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func repositoryOf(t *testing.T, c *registry.Client, r *registrytest.Registry, path string) *registry.Repository {
	t.Helper()
	repository, err := c.Repository(r.Host() + "/" + path)
	require.NoError(t, err)
	return repository
}

// plain is a registry without quirks and a repository of it.
func plain(t *testing.T, options ...registrytest.Option) (*registrytest.Registry, *registry.Repository) {
	t.Helper()
	r := registrytest.New(t, options...)
	return r, repositoryOf(t, newClient(t, machine(t)), r, "team/app")
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}
