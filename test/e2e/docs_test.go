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
	documentedNATS     = "nats.example.com:4222" // without a user, or with one
	documentedConfig   = "configs/sign-worker.yaml"
	documentedOldKey   = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" // of old.key
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
	d := documented{machine: newMachine(t), server: server, keys: map[string]peers.KeyPair{"cosign": w.key, "old": newKey(t), "new": newKey(t)}}
	d.prepare()
	var workers []*program
	for _, command := range commands {
		t.Log(strings.Join(command, " "))
		switch command[0] {
		case "make":
			require.Contains(t, string(ci), strings.Join(command, " "))
		case "sign-worker":
			switch command[1] {
			case "setup":
				d.setup(command[1:])
				continue
			case "config":
				require.Zero(t, d.run("sign-worker", command[1:]...).code)
				continue
			}
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
	keys   map[string]peers.KeyPair // by the names of their files
}

func (d documented) prepare() {
	d.t.Helper()
	d.write("images.txt", strings.Join([]string{d.here(documentedRegistry + "/team/app:1.4"), d.here(documentedRegistry + "/team/proxy:2.0")}, "\n"))
	for name, key := range d.keys {
		for extension, path := range map[string]string{".key": key.Private, ".pub": key.Public} {
			content, err := os.ReadFile(path)
			require.NoError(d.t, err)
			d.write(name+extension, string(content))
		}
		d.write(name+"-pass.txt", key.Passphrase)
	}
	d.write("pass.txt", d.w.key.Passphrase)
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
	text = strings.ReplaceAll(text, documentedOldKey, fingerprint(d.t, d.keys["old"]))
	text = strings.ReplaceAll(text, documentedRegistry, d.w.registry.Host())
	return strings.ReplaceAll(text, documentedNATS, strings.TrimPrefix(d.server.URL(), "nats://"))
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

// setup makes the streams, if no worker has yet.
func (d documented) setup(args []string) {
	d.t.Helper()
	r := d.run("sign-worker", d.args(args)...)
	require.Zero(d.t, r.code, r)
	require.NotEmpty(d.t, r.stdout)
}

func (d documented) submit(args []string) {
	d.t.Helper()
	args = d.args(args)
	reads := slices.Contains([]string{"validate", "inspect"}, args[0])
	if reads || strings.HasPrefix(args[0], "-") && !slices.Contains(args, "--nats-url") {
		args = append(args, "--tls-verify=false")
	}
	r := d.run("sign-submit", args...)
	require.Zero(d.t, r.code, r)
	if strings.HasPrefix(args[0], "-") && !slices.Contains(args, "--detach") {
		require.Contains(d.t, r.stdout, "2 images: ", r)
	}
}

func (d documented) verify(args []string) {
	d.t.Helper()
	args = d.args(args)
	require.Equal(d.t, []string{"verify"}, args[:1])
	flags, image := args[1:len(args)-1], args[len(args)-1]
	require.NoError(d.t, peers.CosignVerify(d.t.Context(), d.w.registry.Access(), image, d.path("cosign.pub"), withoutFlag(flags, "--key")...))
}

// withoutFlag drops a flag and its value.
func withoutFlag(flags []string, name string) []string {
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

// TestDocumentedSettingsAreRead has the programs read what the documents show of a
// worker's file and of a policy.
func TestDocumentedSettingsAreRead(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	block := func(page, language string) string {
		t.Helper()
		text, err := os.ReadFile("../../docs/" + page)
		require.NoError(t, err)
		found := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```").FindStringSubmatch(string(text))
		require.NotNil(t, found, page)
		return found[1]
	}
	r := m.run("sign-worker", "config", "check", "--config", m.write("rules.yaml", block("rules.md", "yaml")))
	require.Zero(t, r.code, r)

	policy := strings.ReplaceAll(block("policy.md", "json"), "/etc/signfleet/origin.pub", m.w.key.Public)
	r = m.run("sign-submit", append(m.key(m.w.key), "--policy", m.write("policy.json", policy), "--failed", m.failed(),
		"--file", m.list("registry.example.com/elsewhere/app:1"), "--attempts", "1", "--skip-login")...)
	require.Equal(t, 1, r.code, r)
	require.NotContains(t, r.stderr, "read policy")
}

// TestDocumentedFlagsAreThoseOfTheProgram holds the tables of the reference
// pages and --help to each other: that in the section of a command to its own,
// the others to that of the program.
func TestDocumentedFlagsAreThoseOfTheProgram(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, program := range []string{"sign-submit", "sign-worker"} {
		page := readPage(t, "../../docs/"+program+".md")
		commands := m.commands(program)
		every := m.flags(program)
		for _, name := range every {
			require.Contains(t, page.flags(), name, "docs/%s.md lacks a flag of --help", program)
		}
		for _, section := range page {
			command := strings.ToLower(section.title)
			if !slices.Contains(commands, command) {
				require.Subset(t, m.flags(program), section.rows, "docs/%s.md, %s", program, section.title)
				continue
			}
			own := without(m.flags(program, command), everyCommand...)
			require.ElementsMatch(t, own, without(section.rows, everyCommand...), "docs/%s.md, %s", program, section.title)
			every = append(every, own...)
			commands = without(commands, command)
		}
		require.Empty(t, commands, "docs/%s.md has no section of these", program)
		require.Subset(t, append(every, everyCommand...), page.flags(), "docs/%s.md has a flag that no --help has", program)
	}
}

// commands are the commands that a program says it has.
func (m *machine) commands(program string) []string {
	m.t.Helper()
	_, list, _ := strings.Cut(m.help(program), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var commands []string
	for line := range strings.Lines(list) {
		command, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		commands = append(commands, command)
	}
	return without(commands, "help")
}

// flags are those that a program, or a command of it, says it has.
func (m *machine) flags(command ...string) []string {
	m.t.Helper()
	_, list, _ := strings.Cut(m.help(command...), "\nFlags:\n")
	var flags []string
	for _, row := range regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z][a-z-]+)`).FindAllStringSubmatch(list, -1) {
		flags = append(flags, row[1])
	}
	return without(flags, "--help", "--version")
}

// help is what a program, or a command of it, says of itself.
func (m *machine) help(command ...string) string {
	m.t.Helper()
	help := m.run(command[0], append(command[1:], "--help")...)
	require.Zero(m.t, help.code)
	return help.stdout
}

// everyCommand are flags that a page tells of once for all commands.
var everyCommand = []string{
	"--nats-url", "--nats-creds", "--nats-nkey", "--nats-user", "--nats-password-file", "--nats-ca", "--nats-cert", "--nats-key",
	"--stream-prefix", "--subject-prefix", "--config", "--debug", "--help", "--version",
}

func without(list []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(names, s) })
}

// page is a reference page.
type page []section

// section is what is below a heading, down to the next one. Blocks are left out:
// commands of other programs stand there too.
type section struct {
	title string
	flags []string // named anywhere
	rows  []string // that begin a row of a table
}

func (p page) flags() []string {
	var flags []string
	for _, s := range p {
		flags = append(flags, s.flags...)
	}
	return flags
}

func readPage(t *testing.T, file string) page {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	prose := regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(string(text), "")
	var p page
	for _, part := range regexp.MustCompile(`(?m)^#+ `).Split(prose, -1) {
		title, body, _ := strings.Cut(part, "\n")
		s := section{title: title, flags: regexp.MustCompile(`--[a-z][a-z-]+`).FindAllString(body, -1)}
		for _, row := range regexp.MustCompile("(?m)^\\| (?:`-[a-z]`, )?`(--[a-z][a-z-]+)` \\|").FindAllStringSubmatch(body, -1) {
			s.rows = append(s.rows, row[1])
		}
		p = append(p, s)
	}
	return p
}
