package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// fleet is the NATS server of a script.
type fleet struct {
	t       testing.TB
	connect func(queue.Options) *queue.Conn
	conn    *queue.Conn
	dir     string
}

type fleetKey struct{}

// startFleet starts the NATS server that a script asks for by a file: needs-nats
// is one that is set up, needs-bare-nats one that is not.
func startFleet(t testing.TB, env *testscript.Env) {
	needs := func(name string) bool {
		_, err := os.Stat(filepath.Join(env.Cd, name))
		return err == nil
	}
	if !needs("needs-nats") && !needs("needs-bare-nats") {
		return
	}
	srv := queuetest.StartServer(t)
	env.Setenv("NATS", srv.ClientURL())
	if needs("needs-bare-nats") {
		return
	}
	f := &fleet{t: t, dir: env.Cd, connect: func(o queue.Options) *queue.Conn { return queuetest.Connect(t, srv, o) }}
	f.conn = f.connect(queue.Options{})
	env.Values[fleetKey{}] = f
}

// workers starts the worker of a fleet, or has workers say that they are there
// who are not: workers start|pretend|gone.
func workers(ts *testscript.TestScript, _ bool, args []string) {
	f := fleetOf(ts)
	switch args[0] {
	case "start":
		f.start()
	case "pretend":
		until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		ts.Check(f.conn.Announce(f.t.Context(), queue.Presence{
			Worker: "one", Host: "node-1", Program: "v1.2.3", Jobs: 8, EventJobs: 2, InWork: 5, StartedAt: until,
			Hosts: []queue.HostState{{Host: "registry.example.org", Open: true, Until: until, Reason: "5 failures in a row: network"}, {Host: "docker.io", InWork: 2, Demand: 2, Accepted: 23.75, FailedRate: 99.6, FailedAgo: queue.Seconds(3 * time.Second)}},
		}))
		ts.Check(f.conn.Announce(f.t.Context(), queue.Presence{Worker: "two", Host: "node-2", Program: "v1.2.3", Jobs: 4, StartedAt: until, Draining: true}))
	case "gone":
		ts.Check(f.conn.Withdraw(f.t.Context(), "one"))
		ts.Check(f.conn.Withdraw(f.t.Context(), "two"))
	default:
		ts.Fatalf("workers %s?", args[0])
	}
}

func fleetOf(ts *testscript.TestScript) *fleet {
	f, ok := ts.Value(fleetKey{}).(*fleet)
	if !ok {
		ts.Fatalf("the script has no needs-nats")
	}
	return f
}

// tried writes into the ledger that an image is tried again: tried BATCH REFERENCE ATTEMPTS.
func tried(ts *testscript.TestScript, _ bool, args []string) {
	f := fleetOf(ts)
	attempts, err := strconv.Atoi(args[2])
	ts.Check(err)
	request := queue.Request{Batch: args[0], Line: queue.Text(args[1]), Reference: args[1]}.Sealed()
	ts.Check(f.conn.WriteLedger(f.t.Context(), request, queue.Entry{
		Attempts: attempts, Deaths: attempts / 3, InFlight: attempts == 3, Reference: args[1], Class: "network", Error: "no route to \x1b[31mhost", Worker: "one", UpdatedAt: time.Now(),
	}))
}

// start runs a worker that signs with the key of the script.
func (f *fleet) start() {
	f.t.Helper()
	t := f.t
	flags := pflag.NewFlagSet("sign-worker", pflag.ContinueOnError)
	config.SigningFlags(flags, station.Defaults(time.Minute))
	require.NoError(t, flags.Parse([]string{"--sigstore-key=" + filepath.Join(f.dir, "cosign.key"), "--sigstore-passphrase-file=" + filepath.Join(f.dir, "pass.txt"),
		"--tls-verify=false", "--insecure-policy", "--attempts=1", "--config=" + os.DevNull}))
	source, err := config.Read(flags, "sign-worker", "")
	require.NoError(t, err)
	var settings config.Signing
	require.NoError(t, source.Into(&settings))
	st, err := station.New(t.Context(), station.Config{Settings: settings, Source: source, Log: zap.NewNop()})
	require.NoError(t, err)
	limits := station.Limits(settings, "worker-1")
	limits.Heartbeat = 500 * time.Millisecond
	conn := f.connect(queue.Options{Role: queue.RoleWorker})
	w, err := st.Worker(conn, limits, station.Locks(conn.Locker(limits.Name).Lock))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // it ends in a cleanup, and earlier
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		st.Close()
	})
}

// variable is what no two runs print alike.
var variable = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "2006-01-02 15:04:05"},
	{regexp.MustCompile(`\d{8}-\d{6}-[a-z2-7]{6}`), "BATCH"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:DIGEST"},
	{regexp.MustCompile(`sha256:[0-9a-f]{12}\b`), "sha256:SHORT"},
	{regexp.MustCompile(`by \S+@\S+`), "by SOMEBODY"},
	{regexp.MustCompile(`"by": "[^"]*"`), `"by": "SOMEBODY"`},
	{regexp.MustCompile(`"id": "[a-z2-7]{26}"`), `"id": "ID"`},
}

// answers compares what was printed last with a file: answers want.txt. What no
// two runs print alike has a name there.
func answers(ts *testscript.TestScript, _ bool, args []string) {
	got := ts.ReadFile("stdout")
	got = strings.ReplaceAll(got, ts.Getenv("REGISTRY"), "REGISTRY")
	if host, err := os.Hostname(); err == nil {
		got = regexp.MustCompile(`\b`+regexp.QuoteMeta(host)+`\b`).ReplaceAllString(got, "HOST")
	}
	for _, v := range variable {
		got = v.pattern.ReplaceAllString(got, v.name)
	}
	want := ts.ReadFile(args[0])
	if strings.Join(columns(got), "\n") != strings.Join(columns(want), "\n") {
		ts.Fatalf("printed:\n%s\nwanted:\n%s", got, want)
	}
}

// columns are the lines of a text, however far apart their columns are: names
// that stand for others have other lengths.
func columns(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, regexp.MustCompile(`(\S)  +`).ReplaceAllString(strings.TrimRight(line, "\n"), "$1  "))
	}
	return lines
}
