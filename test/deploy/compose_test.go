// Package deploy_test checks what stands in deploy/: with the servers and
// programs that it is for.
package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// TestComposeFileIsValid loads deploy/compose.yaml by the Compose
// specification's own library: its schema, its references and its consistency.
func TestComposeFileIsValid(t *testing.T) {
	t.Parallel()
	project := loadProject(t, "submit")
	require.ElementsMatch(t, []string{"nats", "registry", "setup", "worker", "prometheus", "grafana", "seed", "submit"}, project.ServiceNames())
	require.ElementsMatch(t, []string{"nats", "registry", "setup", "worker", "prometheus", "grafana"}, loadProject(t).ServiceNames(),
		"the sample is a profile")

	worker := project.Services["worker"]
	require.Equal(t, 2, *worker.Deploy.Replicas)
	require.Equal(t, []string{"CMD", "/usr/local/bin/sign-worker", "health"}, []string(worker.HealthCheck.Test))
	require.Empty(t, worker.Ports, "what it tells of itself stays in the network")
	for _, service := range []string{"worker", "setup", "submit", "nats"} {
		s := project.Services[service]
		require.True(t, s.ReadOnly, service)
		require.Equal(t, []string{"ALL"}, s.CapDrop, service)
		require.Contains(t, s.SecurityOpt, "no-new-privileges:true", service)
	}
	require.Equal(t, types.ServiceConditionCompletedSuccessfully, worker.DependsOn["setup"].Condition)
	for service, ports := range map[string]int{"nats": 1, "registry": 1, "prometheus": 1, "grafana": 1} {
		require.Len(t, project.Services[service].Ports, ports)
		require.Equal(t, "127.0.0.1", project.Services[service].Ports[0].HostIP, service)
	}

	// One configuration includes the other.
	nats := project.Services["nats"]
	var targets []string
	for _, config := range nats.Configs {
		targets = append(targets, config.Target)
	}
	require.ElementsMatch(t, []string{"/etc/nats/server.conf", "/etc/nats/roles.conf"}, targets)
	server, err := os.ReadFile(project.Configs["server.conf"].File)
	require.NoError(t, err)
	require.Contains(t, string(server), "sync_interval: always")
	for _, config := range project.Configs {
		require.FileExists(t, config.File)
	}
}

// Settings of the programs are settings that they have, and no password stands in
// an environment.
func TestComposeFileHasRealSettings(t *testing.T) {
	t.Parallel()
	f := newPrograms(t)
	project := loadProject(t, "submit")
	for service, program := range map[string]string{"worker": "sign-worker", "setup": "sign-worker", "submit": "sign-submit"} {
		s := project.Services[service]
		var flags string
		if service == "setup" {
			flags = f.help("sign-worker", "setup")
		} else {
			flags = f.help(program)
		}
		for name, value := range s.Environment {
			flag := "--" + strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "SIGNFLEET_")), "_", "-")
			require.Regexp(t, `(?m)^ +(-., )?`+flag+`\b`, flags, "%s of %s", name, service)
			if strings.HasPrefix(*value, "/run/secrets/") {
				require.True(t, slices.ContainsFunc(s.Secrets, func(secret types.ServiceSecretConfig) bool {
					return secret.Source == filepath.Base(*value)
				}), "%s of %s is given to it", *value, service)
			}
			require.NotContains(t, *value, "@", "no password in a URL")
		}
	}
	for _, s := range project.Services {
		for name, value := range s.Environment {
			if strings.Contains(name, "PASSWORD") {
				require.True(t, strings.HasPrefix(*value, "/run/secrets/"), "%s of %s names a file", name, s.Name)
			}
		}
	}
}

// The secrets that compose.yaml wants are those that make-secrets.sh makes up, the
// server takes the passwords, and what is there stays.
func TestMadeUpSecrets(t *testing.T) {
	t.Parallel()
	f := newPrograms(t)
	dir := t.TempDir()
	script, err := os.ReadFile("../../deploy/make-secrets.sh")
	require.NoError(t, err)
	path := filepath.Join(dir, "make-secrets.sh")
	require.NoError(t, os.WriteFile(path, script, 0o700))
	run := func() string {
		cmd := exec.CommandContext(t.Context(), "sh", path, filepath.Join(f.dir, "sign-submit"))
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	require.Contains(t, run(), "made deploy/secrets/nats-worker")
	project := loadProject(t, "submit")
	secrets := make(map[string]string)
	for _, secret := range project.Secrets {
		content, err := os.ReadFile(filepath.Join(dir, "secrets", filepath.Base(secret.File)))
		require.NoError(t, err, "it is made")
		require.NotEmpty(t, content)
		secrets[filepath.Base(secret.File)] = string(content)
	}
	require.Empty(t, run(), "what is there stays")
	again, err := os.ReadFile(filepath.Join(dir, "secrets", "cosign.key"))
	require.NoError(t, err)
	require.Equal(t, secrets["cosign.key"], string(again))
	info, err := os.Stat(filepath.Join(dir, "secrets"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	// The shell of the service gives them to the server as its configuration has them.
	command := project.Services["nats"].Entrypoint
	require.Equal(t, "/bin/sh", command[0])
	text := strings.ReplaceAll(command[len(command)-1], "/run/secrets/", filepath.Join(dir, "secrets")+"/")
	text = strings.Replace(text, "exec nats-server --config /etc/nats/server.conf", "env", 1)
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-euc", text).Output()
	require.NoError(t, err)
	for _, role := range roles {
		require.Contains(t, string(out), "SIGNFLEET_"+strings.ToUpper(role)+"_PASSWORD="+secrets["nats-"+role]+"\n")
		require.Regexp(t, `^[a-z][a-z0-9]+$`, secrets["nats-"+role], "the configuration takes it without quotes")
	}
}

func loadProject(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"../../deploy/compose.yaml"}, cli.WithName("signfleet"), cli.WithProfiles(profiles))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	return project
}

// programs are the built ones.
type programs struct {
	t   *testing.T
	dir string
}

func newPrograms(t *testing.T) programs {
	t.Helper()
	dir, err := binaries()
	require.NoError(t, err)
	return programs{t, dir}
}

// help is what a program says of itself.
func (p programs) help(command ...string) string {
	p.t.Helper()
	return p.out(0, append(command, "--help")...)
}

// out is what a command prints.
func (p programs) out(want int, command ...string) string {
	p.t.Helper()
	program, err := peers.StartProgram(p.t.Context(), peers.Command{
		Path: filepath.Join(p.dir, command[0]), Args: command[1:], Dir: p.t.TempDir(), Env: []string{"HOME=" + p.t.TempDir()},
	})
	require.NoError(p.t, err)
	code, err := program.Wait(p.t.Context())
	require.NoError(p.t, err)
	require.Equal(p.t, want, code, program.Output())
	return program.Output()
}
