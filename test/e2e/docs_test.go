package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// What the documents call things that are somebody's own.
const (
	documentedRegistry = "registry.example.com"
	documentedNATS     = "nats://nats.example.com:4222"
	documentedConfig   = "configs/sign-worker.yaml"
)

// TestDocumentedCommandsWork runs every command that README.md and docs/ show,
// with a registry and a NATS server in the places of those in the documents.
// `make test` is what runs this test, and `make demo` a step of .ci/run beside it.
func TestDocumentedCommandsWork(t *testing.T) {
	t.Parallel()
	w := shared(t)
	server := startNATS(t)
	for _, path := range []string{"team/app:1.4", "team/proxy:2.0"} {
		_, err := w.pusher.Index(t.Context(), path, "linux/amd64", "linux/arm64")
		require.NoError(t, err)
	}
	commands := documentedCommands(t)
	require.NotEmpty(t, commands)
	// A fleet needs its workers before its submitters, and a verifier both.
	order := []string{"make", "sign-worker", "sign-submit", "cosign"}
	slices.SortStableFunc(commands, func(a, b []string) int {
		return slices.Index(order, a[0]) - slices.Index(order, b[0])
	})
	ci, err := os.ReadFile("../../.ci/run")
	require.NoError(t, err)
	d := documented{machine: newMachine(t), server: server}
	d.prepare()
	var workers []*program
	for _, command := range commands {
		t.Log(strings.Join(command, " "))
		switch command[0] {
		case "make":
			require.Contains(t, string(ci), strings.Join(command, " "))
		case "sign-worker":
			workers = append(workers, d.serve(command[1:]))
		case "sign-submit":
			d.submit(command[1:])
		case "cosign":
			d.verify(command[1:])
		default:
			require.Fail(t, "a command that no test runs", "%v", command)
		}
	}
	for _, p := range workers {
		p.signal(syscall.SIGTERM)
		require.Zero(t, p.wait().code)
	}
}

// documented runs commands of the documents on a machine that has the files
// they name.
type documented struct {
	*machine
	server *peers.NATS
}

func (d documented) prepare() {
	d.t.Helper()
	d.write("images.txt", strings.Join([]string{d.here(documentedRegistry + "/team/app:1.4"), d.here(documentedRegistry + "/team/proxy:2.0")}, "\n"))
	d.write("pass.txt", d.w.key.Passphrase)
	for name, path := range map[string]string{"cosign.key": d.w.key.Private, "cosign.pub": d.w.key.Public} {
		content, err := os.ReadFile(path)
		require.NoError(d.t, err)
		d.write(name, string(content))
	}
	config, err := os.ReadFile(filepath.Join("../..", documentedConfig))
	require.NoError(d.t, err)
	// What the shipped file leaves to its reader.
	filled := strings.NewReplacer(
		`nats-url: ""`, `nats-url: "`+d.server.URL()+`"`,
		`sigstore-key: ""`, `sigstore-key: cosign.key`,
		`sigstore-passphrase-file: ""`, `sigstore-passphrase-file: pass.txt`,
	).Replace(string(config))
	d.write(documentedConfig, filled)
}

// here puts this machine's servers in the places of the documents'.
func (d documented) here(text string) string {
	text = strings.ReplaceAll(text, documentedRegistry, d.w.registry.Host())
	return strings.ReplaceAll(text, documentedNATS, d.server.URL())
}

func (d documented) args(args []string) []string {
	out := make([]string, 0, len(args))
	for _, arg := range args {
		out = append(out, d.here(arg))
	}
	return out
}

// serve starts a worker of the documents.
func (d documented) serve(args []string) *program {
	d.t.Helper()
	p := d.start("sign-worker", append(d.args(args), "--tls-verify=false")...)
	p.says("serving")
	return p
}

func (d documented) submit(args []string) {
	d.t.Helper()
	args = d.args(args)
	if !slices.Contains(args, "--nats-url") {
		args = append(args, "--tls-verify=false")
	}
	r := d.run("sign-submit", args...)
	require.Zero(d.t, r.code, r)
	require.Contains(d.t, r.stdout, "2 images: ", r)
}

func (d documented) verify(args []string) {
	d.t.Helper()
	args = d.args(args)
	require.Equal(d.t, []string{"verify"}, args[:1])
	flags, image := args[1:len(args)-1], args[len(args)-1]
	require.NoError(d.t, peers.CosignVerify(d.t.Context(), d.w.registry.Access(), image, d.path("cosign.pub"), without(flags, "--key")...))
}

// without drops a flag and its value.
func without(flags []string, name string) []string {
	var kept []string
	for i := 0; i < len(flags); i++ {
		if flags[i] == name {
			i++
			continue
		}
		kept = append(kept, flags[i])
	}
	return kept
}

// documentedCommands are the commands of the documents, without repetitions.
func documentedCommands(t *testing.T) [][]string {
	t.Helper()
	var commands [][]string
	for _, page := range documentedPages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, block := range regexp.MustCompile("(?ms)^```(?:sh|text)\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
				words := strings.Fields(line)
				if len(words) < 2 || !slices.Contains([]string{"make", "sign-submit", "sign-worker", "cosign"}, words[0]) {
					continue
				}
				if !slices.ContainsFunc(commands, func(c []string) bool { return slices.Equal(c, words) }) {
					commands = append(commands, words)
				}
			}
		}
	}
	return commands
}

func documentedPages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	return append(pages, "../../README.md", "../../CONTRIBUTING.md")
}

// TestDocumentedFlagsAreThoseOfTheProgram holds the tables of the reference
// pages and --help to each other.
func TestDocumentedFlagsAreThoseOfTheProgram(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	flag := regexp.MustCompile(`--[a-z][a-z-]+`)
	submitPage := mentioned(t, flag, "../../docs/sign-submit.md")
	workerPage := mentioned(t, flag, "../../docs/sign-worker.md")
	for program, page := range map[string][]string{"sign-submit": submitPage, "sign-worker": workerPage} {
		help := m.run(program, "--help")
		require.Zero(t, help.code)
		for _, name := range flag.FindAllString(help.stdout, -1) {
			if name != "--help" && name != "--version" {
				require.Contains(t, page, name, "docs/%s.md lacks a flag of --help", program)
			}
		}
		for _, name := range page {
			require.Contains(t, help.stdout, name, "docs/%s.md has a flag that --help lacks", program)
		}
	}
}

func mentioned(t *testing.T, flag *regexp.Regexp, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	// Commands of the other program stand on these pages too, in blocks.
	prose := regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(string(text), "")
	return flag.FindAllString(prose, -1)
}
