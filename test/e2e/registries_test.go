package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// A registry is reached with what podman and docker would use to reach it, and
// with nothing else.
func TestWaysToReachARegistry(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		registry peers.RegistryOptions
		verify   string // --tls-verify, if it is to be given
		prepare  func(t *testing.T, m *machine, r *peers.Registry)
	}{
		"http": {verify: "false"},
		"http by registries.conf": {
			prepare: func(_ *testing.T, m *machine, r *peers.Registry) {
				m.write(".config/containers/registries.conf",
					"[[registry]]\nlocation = \""+r.Host()+"\"\ninsecure = true\n")
			},
		},
		"https with its own CA": {registry: peers.RegistryOptions{TLS: true}, prepare: trust},
		"https unverified":      {registry: peers.RegistryOptions{TLS: true}, verify: "false"},
		"basic auth, podman login": {
			registry: peers.RegistryOptions{TLS: true, Auth: peers.BasicAuth},
			prepare: func(t *testing.T, m *machine, r *peers.Registry) {
				trust(t, m, r)
				login(t, m, r, "run/containers/auth.json")
			},
		},
		"basic auth, docker login": {
			registry: peers.RegistryOptions{Auth: peers.BasicAuth}, verify: "false",
			prepare: func(t *testing.T, m *machine, r *peers.Registry) { login(t, m, r, ".docker/config.json") },
		},
		"token auth": {
			registry: peers.RegistryOptions{Auth: peers.TokenAuth}, verify: "false",
			prepare: func(t *testing.T, m *machine, r *peers.Registry) { login(t, m, r, "run/containers/auth.json") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			registry, pusher := startRegistry(t, c.registry)
			image, err := pusher.Index(t.Context(), "team/app:1.0", "linux/amd64", "linux/arm64")
			require.NoError(t, err)
			if c.prepare != nil {
				c.prepare(t, m, registry)
			}
			args := append(m.key(m.w.key), "--file", m.list(image.Reference), "--failed", m.failed())
			if c.verify != "" {
				args = append(args, "--tls-verify="+c.verify)
			}

			r := m.run("sign-submit", args...)

			require.Zero(t, r.code, r)
			require.NotContains(t, r.String(), peers.Password)
			requireSigned(t, registry.Access(), m.w.key.Public,
				image.Reference, image.ByDigest(), image.Child("linux/amd64"), image.Child("linux/arm64"))
		})
	}
}

// One token serves all requests to a repository.
func TestTokensAreShared(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	registry, pusher := startRegistry(t, peers.RegistryOptions{Auth: peers.TokenAuth})
	var lines []string
	for _, tag := range []string{"1", "2", "3", "4"} {
		image, err := pusher.Index(t.Context(), "team/app:"+tag, "linux/amd64", "linux/arm64")
		require.NoError(t, err)
		lines = append(lines, image.Reference)
	}
	login(t, m, registry, "run/containers/auth.json")
	before := registry.Tokens().Issued()

	r := m.submit(m.list(lines...), "--skip-login", "--jobs", "4")

	require.Zero(t, r.code, r)
	require.Equal(t, 1, registry.Tokens().Issued()-before)
}

func TestRegistriesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		registry peers.RegistryOptions
		prepare  func(t *testing.T, m *machine, r *peers.Registry)
		flags    []string
		class    string
	}{
		"unknown account": {
			registry: peers.RegistryOptions{Auth: peers.BasicAuth},
			prepare: func(t *testing.T, m *machine, r *peers.Registry) {
				_, err := peers.WriteAuthFile(m.path(".docker"), r.Host(), peers.User, "wrong")
				require.NoError(t, err)
			},
			flags: []string{"--tls-verify=false"}, class: "unauthorized",
		},
		"no account": {
			registry: peers.RegistryOptions{Auth: peers.TokenAuth},
			flags:    []string{"--tls-verify=false"}, class: "unauthorized",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			registry, pusher := startRegistry(t, c.registry)
			image, err := pusher.Single(t.Context(), "team/app:1.0", "linux/amd64")
			require.NoError(t, err)
			if c.prepare != nil {
				c.prepare(t, m, registry)
			}
			args := append(m.key(m.w.key), "--file", m.list(image.Reference), "--failed", m.failed())

			r := m.run("sign-submit", append(args, c.flags...)...)

			require.Equal(t, 1, r.code, r)
			require.Equal(t, []string{image.Reference}, m.failedLines())
			require.Equal(t, c.class, m.failures()[0].Class, m.failures()[0].Reason)
			require.NotContains(t, r.String(), peers.Password)
		})
	}
}

// trust puts the registry's CA where podman looks for it.
func trust(t *testing.T, m *machine, r *peers.Registry) {
	t.Helper()
	_, err := r.Access().CertsDir(m.path(".config/containers"), r.Host())
	require.NoError(t, err)
}

// login stores the registry's account where a login command would.
func login(t *testing.T, m *machine, r *peers.Registry, file string) {
	t.Helper()
	data, err := os.ReadFile(r.Access().AuthFile)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(m.path(file)), 0o700))
	m.write(file, string(data))
}
