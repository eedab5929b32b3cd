package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// directive is a line of a unit.
type directive struct{ section, name, value string }

func readUnit(t *testing.T, file string) (all []directive) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			name, value, ok := strings.Cut(line, "=")
			require.True(t, ok, line)
			all = append(all, directive{section, name, value})
		}
	}
	return all
}

// The unit of systemd gives the worker the settings that it has, and little else.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	const file = "../../deploy/systemd/sign-worker.service"
	unit := readUnit(t, file)
	values := make(map[string][]string)
	for _, d := range unit {
		require.Contains(t, []string{"Unit", "Service", "Install"}, d.section, d.name)
		values[d.name] = append(values[d.name], d.value)
	}
	help := newPrograms(t).help("sign-worker")
	credentials := strings.Join(values["LoadCredential"], " ")
	for _, variable := range values["Environment"] {
		name, value, _ := strings.Cut(strings.TrimPrefix(variable, "SIGNFLEET_"), "=")
		require.Regexp(t, `(?m)^ +(-., )?--`+strings.ReplaceAll(strings.ToLower(name), "_", "-")+`\b`, help)
		if credential, ok := strings.CutPrefix(value, "%d/"); ok {
			require.Contains(t, credentials, credential+":/etc/signfleet/secrets/"+credential)
		}
	}
	require.Equal(t, []string{"/bin/kill -HUP $MAINPID"}, values["ExecReload"])
	require.Equal(t, []string{"2"}, values["RestartPreventExitStatus"], "a mistake in the settings")
	for name, value := range map[string]string{
		"NoNewPrivileges": "yes", "ProtectSystem": "strict", "DynamicUser": "yes", "PrivateDevices": "yes", "MemoryDenyWriteExecute": "yes",
		"CapabilityBoundingSet": "", "RestrictNamespaces": "yes", "ProtectHome": "yes", "LimitCORE": "0", "UMask": "0077",
		"RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
	} {
		require.Equal(t, []string{value}, values[name], name)
	}
	require.Regexp(t, `^([4-9][0-9]|[0-9]{3,})s$`, values["TimeoutStopSec"][0], "longer than shutdown-grace")
	// Where there is a systemd it has its say, too.
	if analyze, err := exec.LookPath("systemd-analyze"); err == nil {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		copied := filepath.Join(t.TempDir(), "sign-worker.service")
		text = regexp.MustCompile(`(?m)^ExecStart=\S+`).ReplaceAll(text, []byte("ExecStart=/bin/true"))
		require.NoError(t, os.WriteFile(copied, text, 0o600))
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", copied).CombinedOutput()
		require.NoError(t, err, string(out))
		require.NotContains(t, string(out), "Unknown", "a directive is misspelt")
	}
}
