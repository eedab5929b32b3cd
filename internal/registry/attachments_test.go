package registry_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
)

func TestAttachmentsAreAllowedUnlessRegistriesDSaysNo(t *testing.T) {
	t.Parallel()
	o := machine(t)
	file := filepath.Join(o.RegistriesDir, "site.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`
docker:
  registry.example.com:
    use-sigstore-attachments: false
  registry.example.com/team:
    lookaside: https://sigs.example.com
  registry.example.com/team/open:
    use-sigstore-attachments: true
  "*.internal.example.com":
    use-sigstore-attachments: false
`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(o.RegistriesDir, "README"), []byte("docker: ["), 0o600))
	client := newClient(t, o)
	tests := map[string]string{ // repository: the scope that forbids it
		"registry.example.com/app":           "registry.example.com",
		"registry.example.com/team/app":      "registry.example.com", // the nearer entry says nothing
		"registry.example.com/team/open":     "",
		"registry.example.com/team/open/sub": "",
		"a.internal.example.com:5000/app":    "*.internal.example.com",
		"other.example.com/app":              "",
	}
	for repository, scope := range tests {
		err := client.AttachmentsAllowed(repository)
		if scope == "" {
			require.NoError(t, err, repository)
			continue
		}
		var disabled *registry.AttachmentsDisabledError
		require.ErrorAs(t, err, &disabled)
		require.Equal(t, registry.AttachmentsDisabledError{Repository: repository, Scope: scope, File: file}, *disabled)
	}
}

func TestAttachmentsByDefault(t *testing.T) {
	t.Parallel()
	o := machine(t)
	require.NoError(t, os.WriteFile(filepath.Join(o.RegistriesDir, "default.yaml"),
		[]byte("default-docker:\n  use-sigstore-attachments: false\n"), 0o600))
	require.ErrorContains(t, newClient(t, o).AttachmentsAllowed("registry.example.com/app"), "default.yaml")
}

func TestAttachmentsWhereRegistriesConfLeadsElsewhere(t *testing.T) {
	t.Parallel()
	o := machine(t)
	o.RegistriesConf = writeFile(t, "registries.conf",
		"[[registry]]\nprefix = 'old.example.com'\nlocation = 'new.example.com/moved'\n")
	require.NoError(t, os.WriteFile(filepath.Join(o.RegistriesDir, "new.yaml"),
		[]byte("docker:\n  new.example.com:\n    use-sigstore-attachments: false\n"), 0o600))
	require.ErrorContains(t, newClient(t, o).AttachmentsAllowed("old.example.com/app"), "new.yaml")
}

func TestRegistriesDThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, files := range map[string][]string{
		"parse":      {"docker: ["},
		"is defined": {"docker: {a.example.com: {}}", "docker: {a.example.com: {}}"},
	} {
		o := machine(t)
		for i, content := range files {
			require.NoError(t, os.WriteFile(filepath.Join(o.RegistriesDir, string(rune('a'+i))+".yaml"), []byte(content), 0o600))
		}
		_, err := registry.New(o)
		require.ErrorContains(t, err, name)
	}
}
