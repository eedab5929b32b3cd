// Package deploy_test checks what stands in deploy/.
package deploy_test

import (
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/stretchr/testify/require"
)

// TestComposeFileIsValid loads deploy/compose.yaml by the Compose
// specification's own library: its schema, its references and its consistency.
func TestComposeFileIsValid(t *testing.T) {
	t.Parallel()
	options, err := cli.NewProjectOptions([]string{"../../deploy/compose.yaml"}, cli.WithName("signfleet"))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"nats", "registry", "worker"}, project.ServiceNames())
	require.Contains(t, project.Configs["nats.conf"].Content, "sync_interval: always")
	worker, err := project.GetService("worker")
	require.NoError(t, err)
	require.Len(t, worker.Secrets, 2)
	require.True(t, worker.ReadOnly)
}
