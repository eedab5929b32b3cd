// Package deploy_test checks what stands in deploy/: with the servers and
// programs that it is for.
package deploy_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
)

// TestComposeFileIsValid loads deploy/compose.yaml by the Compose
// specification's own library: its schema, its references and its consistency.
func TestComposeFileIsValid(t *testing.T) {
	t.Parallel()
	var passwords []string
	for _, role := range roles {
		passwords = append(passwords, "SIGNFLEET_"+strings.ToUpper(role)+"_PASSWORD="+passwordOf(role))
	}
	project, err := loadProject(t, passwords)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"nats", "registry", "setup", "worker"}, project.ServiceNames())

	nats := project.Services["nats"]
	require.Len(t, nats.Configs, 2)
	for _, config := range nats.Configs {
		require.Equal(t, filepath.Dir(nats.Command[1]), filepath.Dir(config.Target), "one file includes the other")
		require.FileExists(t, project.Configs[config.Source].File)
	}
	require.Contains(t, *project.Services["setup"].Environment["SIGNFLEET_NATS_URL"], "//operator:"+passwordOf("operator")+"@nats:")
	worker := project.Services["worker"]
	require.Contains(t, *worker.Environment["SIGNFLEET_NATS_URL"], "//worker:"+passwordOf("worker")+"@nats:")
	require.Len(t, worker.Secrets, 2)
	require.True(t, worker.ReadOnly)
	require.Equal(t, types.ServiceConditionCompletedSuccessfully, worker.DependsOn["setup"].Condition)
}

// TestComposeFileWantsPasswords: a role without one would be open to all.
func TestComposeFileWantsPasswords(t *testing.T) {
	t.Parallel()
	for _, environment := range [][]string{nil, {"SIGNFLEET_SUBMITTER_PASSWORD="}} {
		_, err := loadProject(t, environment)
		require.ErrorContains(t, err, "see the top of compose.yaml")
	}
}

func loadProject(t *testing.T, environment []string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"../../deploy/compose.yaml"}, cli.WithName("signfleet"), cli.WithEnv(environment))
	require.NoError(t, err)
	return options.LoadProject(t.Context())
}
