package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// patience bounds every wait: what takes longer will not come.
const patience = 2 * time.Minute

// machine is a computer of a user's own: its settings and its state are seen
// by no other test.
type machine struct {
	t    *testing.T
	w    *world
	home string
	// variables are more of the environment of its programs.
	variables []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, w: shared(t), home: t.TempDir()}
	for _, dir := range []string{"run", "state", ".docker", ".config/containers"} {
		require.NoError(t, os.MkdirAll(m.path(dir), 0o700))
	}
	return m
}

// path returns a path in the home directory.
func (m *machine) path(name string) string { return filepath.Join(m.home, name) }

// write writes a file in the home directory and returns its path.
func (m *machine) write(name, content string) string {
	m.t.Helper()
	require.NoError(m.t, os.MkdirAll(filepath.Dir(m.path(name)), 0o700))
	require.NoError(m.t, os.WriteFile(m.path(name), []byte(content), 0o600))
	return m.path(name)
}

// env has nothing of the environment of the tests.
func (m *machine) env() []string {
	return append([]string{
		"HOME=" + m.home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "LANG=C.UTF-8",
		"XDG_STATE_HOME=" + m.path("state"), "XDG_RUNTIME_DIR=" + m.path("run"),
		"XDG_CONFIG_HOME=" + m.path(".config"), "DOCKER_CONFIG=" + m.path(".docker"),
	}, m.variables...)
}

// key returns the flags that name a key and its passphrase. The names of tests,
// and so those of their directories, may have commas: in quotes, as it is documented.
func (m *machine) key(k peers.KeyPair) []string {
	m.t.Helper()
	name := "pass-" + strings.ReplaceAll(strings.TrimPrefix(k.Private, "/"), "/", "-")
	return []string{"--sigstore-key", `"` + k.Private + `"`, "--sigstore-passphrase-file", `"` + m.write(name, k.Passphrase) + `"`}
}

// list writes an image list and returns its path.
func (m *machine) list(lines ...string) string {
	m.t.Helper()
	return m.write("images.txt", strings.Join(lines, "\n")+"\n")
}

// failed is where submissions of this machine write their failed list.
func (m *machine) failed() string { return m.path("sign-failed.txt") }

// failedLines returns the failed list, or nil when there is none.
func (m *machine) failedLines() []string {
	m.t.Helper()
	data, err := os.ReadFile(m.failed())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(m.t, err)
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// failure is what the details of a failed list say of one line.
type failure struct {
	Line, Class, Reason string
}

// failures returns the details beside the failed list.
func (m *machine) failures() []failure {
	m.t.Helper()
	data, err := os.ReadFile(m.path("sign-failed.json"))
	require.NoError(m.t, err)
	var details struct {
		Failed []failure `json:"failed"`
	}
	require.NoError(m.t, json.Unmarshal(data, &details))
	return details.Failed
}

// embedded returns the flags of a submission that signs by itself with the
// shared key over plain http; more flags follow them, and win.
func (m *machine) embedded(list string, more ...string) []string {
	return append(append(m.key(m.w.key), "--file", list, "--failed", m.failed(), "--tls-verify=false"), more...)
}

// submit signs a list with the shared key and returns how that ended.
func (m *machine) submit(list string, more ...string) result {
	m.t.Helper()
	return m.run("sign-submit", m.embedded(list, more...)...)
}

// result is how a program ended.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string { return "stdout:\n" + r.stdout + "stderr:\n" + r.stderr }

// run runs a program to its end.
func (m *machine) run(name string, args ...string) result {
	m.t.Helper()
	return m.start(name, args...).wait()
}

// program is a running program.
type program struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr *output
	done           chan struct{}
}

// start starts a program; it is killed at the end of the test at the latest.
func (m *machine) start(name string, args ...string) *program {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), m.w.binary(name), args...)
	p := &program{t: m.t, cmd: cmd, stdout: newOutput(), stderr: newOutput(), done: make(chan struct{})}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = m.env(), m.home, p.stdout, p.stderr
	require.NoError(m.t, cmd.Start())
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // the exit code is read from the state
	}()
	m.t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if m.t.Failed() {
			m.t.Logf("%s %s\nexit %d, %s", name, strings.Join(args, " "), p.cmd.ProcessState.ExitCode(), p.result())
		}
	})
	return p
}

// wait returns how the program ended.
func (p *program) wait() result {
	p.t.Helper()
	p.within(p.done, "end of the program")
	return p.result()
}

// kill ends the program as a power cut would.
func (p *program) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

func (p *program) signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended by itself
}

// says waits until the program has written a text to either output.
func (p *program) says(text string) {
	p.t.Helper()
	for {
		out, err := p.stdout.changed(), p.stderr.changed()
		if strings.Contains(p.stdout.String(), text) || strings.Contains(p.stderr.String(), text) {
			return
		}
		select {
		case <-out:
		case <-err:
		case <-p.done:
			require.Contains(p.t, p.stdout.String()+p.stderr.String(), text, "the program ended without saying it")
			return
		case <-time.After(patience):
			require.Contains(p.t, p.stdout.String()+p.stderr.String(), text)
		}
	}
}

func (p *program) within(c <-chan struct{}, what string) {
	p.t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.Fail(p.t, "waited too long for "+what, "%s", p.result())
	}
}

func (p *program) result() result {
	r := result{code: -1, stdout: p.stdout.String(), stderr: p.stderr.String()}
	select {
	case <-p.done:
		r.code = p.cmd.ProcessState.ExitCode()
	default:
	}
	return r
}

// output collects what a program writes and tells who waits for it.
type output struct {
	mu   sync.Mutex
	data bytes.Buffer
	next chan struct{}
}

func newOutput() *output { return &output{next: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.next)
	o.next = make(chan struct{})
	return o.data.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

func (o *output) changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.next
}
