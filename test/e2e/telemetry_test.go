package e2e

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// telling starts a worker that tells of itself on a port of its own, and returns
// where.
func (m *machine) telling(server *peers.NATS, more ...string) (p *program, address string) {
	m.t.Helper()
	p = m.worker(server, append(more, "--listen", "127.0.0.1:0")...)
	address = regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(p.stderr.String())[1]
	return p, address
}

// ask is what a worker answers at a path.
func ask(t *testing.T, address, path string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// metricNames are the metrics in a text of Prometheus: histograms by their own name.
func metricNames(text string) []string {
	names := make(map[string]bool)
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(text, -1) {
		names[match[1]] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// ours are the metrics that are not of the runtime.
func ours(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		return regexp.MustCompile(`^(go_|process_|promhttp_|target_info|otel_)`).MatchString(name)
	})
}

// The table of metrics in the documents has those that a worker has, and no other.
func TestMetricsAreThoseOfTheDocuments(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	_, lines := pushMany(t, pusher, 3)
	worker, address := m.telling(server, "--host-rate", "20", "--breaker-failures", "1", "--breaker-pause", "1m", "--attempts", "1")

	r := m.run("sign-submit", "--nats-url", server.URL(), "--failed", m.failed(), "--file",
		m.list(append(lines, proxy.Host()+"/absent:1", "127.0.0.1:1/away:1")...))
	require.Equal(t, 1, r.code, r)
	status, ready := ask(t, address, "/readyz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "consumers: ok\nkeys: ok\nnats: ok\nserving: ok\n", ready)
	status, text := ask(t, address, "/metrics")
	require.Equal(t, http.StatusOK, status)

	page, err := os.ReadFile("../../docs/telemetry.md")
	require.NoError(t, err)
	_, table, _ := strings.Cut(string(page), "| metric | labels | meaning |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for row := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " |")
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cell, -1) {
			documented = append(documented, name[1])
		}
	}
	slices.Sort(documented)
	// A worker publishes nothing.
	have := append(ours(metricNames(text)), "messaging_client_sent_messages_total")
	slices.Sort(have)
	require.Equal(t, documented, have)

	require.Regexp(t, `(?m)^signfleet_images_total\{class="not-found",lane="bulk",outcome="dead"\} 1$`, text)
	require.Regexp(t, `(?m)^signfleet_images_total\{class="network",lane="bulk",outcome="dead"\} 1$`, text)
	require.Regexp(t, `(?m)^signfleet_images_total\{lane="bulk",outcome="signed"\} 3$`, text)
	require.Regexp(t, `(?m)^signfleet_registry_open\{server_address="127.0.0.1:1"\} 1$`, text)
	require.Regexp(t, `(?m)^signfleet_reloads_total\{result="failure"\} 0$`, text, "it is there before there is one")
	require.NotContains(t, text, "/away", "images are not named")
	for _, line := range lines {
		repository, _, _ := strings.Cut(strings.TrimPrefix(line, proxy.Host()+"/"), ":")
		require.NotContains(t, text, repository, "images are not named")
	}

	// Health, as a container asks for it.
	r = m.run("sign-worker", "health", "--listen", address)
	require.Zero(t, r.code, r)
	require.Contains(t, r.stdout, "nats: ok")
	require.NoError(t, server.Stop())
	require.Eventually(t, func() bool { return m.run("sign-worker", "health", "--listen", address).code == 1 }, patience, 100*time.Millisecond)
	r = m.run("sign-worker", "health", "--listen", address)
	require.Contains(t, r.stderr, "not connected to the NATS server")
	require.Zero(t, m.run("sign-worker", "health", "--listen", address, "--live").code, "to be restarted would not help")
	worker.kill()
	require.Equal(t, 1, m.run("sign-worker", "health", "--listen", address, "--live").code)
}

// A worker that finishes what it has says so, and still answers.
func TestADrainingWorkerIsNotReady(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	_, lines := pushMany(t, pusher, 1)
	fault, open := gate(1)
	proxy.SetFault(fault)
	worker, address := m.telling(server)
	submission := m.start("sign-submit", "--file", m.list(lines...), "--nats-url", server.URL(), "--failed", m.failed())
	awaitRequests(t, submission, proxy, 2) // the second is held
	worker.signal(syscall.SIGTERM)
	worker.says("draining")
	status, text := ask(t, address, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, "serving: draining")
	_, text = ask(t, address, "/metrics")
	require.Regexp(t, `(?m)^signfleet_draining(\{\})? 1$`, text)
	open()
	require.Zero(t, worker.wait().code)
	require.Zero(t, submission.wait().code)
}

// One trace goes from the list, through the queue, to each request to a registry,
// across the processes.
func TestOneTraceThroughBothPrograms(t *testing.T) {
	t.Parallel()
	collector := peers.StartCollector()
	defer collector.Close()
	server := startNATS(t)
	m := newMachine(t)
	m.variables = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL(), "OTEL_METRICS_EXPORTER=none"}
	worker := m.worker(server)
	index, err := m.w.pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	r := m.run("sign-submit", "--nats-url", server.URL(), "--failed", m.failed(), "--file", m.list(index.Reference))
	require.Zero(t, r.code, r)
	worker.signal(syscall.SIGTERM)
	drained := worker.wait()
	require.Zero(t, drained.code, drained)

	spans := make(map[string]peers.Span)
	counts := make(map[string]int)
	trace := ""
	for _, span := range collector.Spans() {
		spans[span.SpanID] = span
		counts[span.Service+" "+span.Name]++
		if span.Name == "submit" {
			trace = span.TraceID
		}
	}
	require.Equal(t, 1, counts["sign-submit submit"])
	require.Equal(t, 1, counts["sign-submit publish SIGN_REQUESTS"])
	require.Equal(t, 1, counts["sign-worker process bulk"])
	require.Equal(t, 1, counts["sign-worker resolve"])
	require.Equal(t, 3, counts["sign-worker attach"], "the index and two images")
	require.Equal(t, 3, counts["sign-worker sign"])
	require.Positive(t, counts["sign-worker GET"])
	require.Positive(t, counts["sign-worker PUT"])
	// From each of them the way leads back to the submission.
	for _, span := range spans {
		require.Equal(t, trace, span.TraceID, span.Name)
		for span.ParentID != "" {
			parent, ok := spans[span.ParentID]
			require.True(t, ok, "the parent of %s", span.Name)
			span = parent
		}
		require.Equal(t, "submit", span.Name)
	}
	require.Contains(t, drained.stderr, `"trace_id":"`+trace+`"`)
}

// Each finished image has one line, with all that there is to know.
func TestTheLineOfAnImage(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	worker := m.worker(server)
	_, lines := pushMany(t, m.w.pusher, 1)
	absent := m.w.registry.Host() + "/" + repository(t) + ":absent"
	r := m.run("sign-submit", "--nats-url", server.URL(), "--failed", m.failed(), "--file", m.list(lines[0], absent))
	require.Equal(t, 1, r.code, r)
	worker.signal(syscall.SIGTERM)
	of := make(map[string]map[string]any)
	for line := range strings.Lines(worker.wait().stderr) {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		if reference, ok := fields["reference"].(string); ok && fields["outcome"] != nil {
			require.NotContains(t, of, reference)
			of[reference] = fields
		}
	}
	require.Equal(t, "signed", of[lines[0]]["outcome"])
	require.Equal(t, "not-found", of[absent]["class"])
	for _, key := range []string{"digest", "outcome", "signatures", "attempts", "queued", "resolve", "sign", "attach", "took", "batch", "id"} {
		require.Contains(t, of[lines[0]], key)
	}
}

// No secret is in anything that the programs tell, whatever goes wrong.
func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	collector := peers.StartCollector()
	defer collector.Close()
	w := shared(t)
	locked, err := peers.StartRegistry(t.Context(), peers.RegistryOptions{Auth: peers.TokenAuth})
	require.NoError(t, err)
	defer locked.Close() //nolint:errcheck // a test's registry
	pusher, err := peers.NewPusher(locked.Host(), locked.Access())
	require.NoError(t, err)
	image, err := pusher.Single(t.Context(), "secret/app:1", "linux/amd64")
	require.NoError(t, err)
	key := newKey(t)
	private, err := os.ReadFile(key.Private)
	require.NoError(t, err)
	const natsPassword, wrongPassword, headerToken, vaultToken = "n4ts-pa55word", "wr0ng-pa55word", "c0llector-token", "hvs.v4ult-token"
	server, err := peers.StartNATSWith(t.Context(), peers.NATSOptions{User: "worker", Password: natsPassword})
	require.NoError(t, err)
	defer server.Close() //nolint:errcheck // a test's server
	url := strings.Replace(server.URL(), "nats://", "nats://worker:"+natsPassword+"@", 1)

	var told strings.Builder
	environment := []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL(), "OTEL_EXPORTER_OTLP_HEADERS=authorization=" + headerToken,
		"OTEL_METRIC_EXPORT_INTERVAL=200", "VAULT_TOKEN=" + vaultToken,
	}
	good, bad := newMachine(t), newMachine(t)
	good.variables, bad.variables = environment, environment
	_, err = peers.WriteAuthFile(good.path(".docker"), locked.Host(), peers.User, peers.Password)
	require.NoError(t, err)
	_, err = peers.WriteAuthFile(bad.path(".docker"), locked.Host(), peers.User, wrongPassword)
	require.NoError(t, err)
	for _, m := range []*machine{good, bad} {
		p := m.start("sign-worker", append(m.key(key), "--nats-url", url, "--tls-verify=false", "--debug", "--listen", "127.0.0.1:0", "--attempts", "1")...)
		p.says("serving")
		address := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(p.stderr.String())[1]
		r := m.run("sign-submit", "--nats-url", url, "--debug", "--failed", m.failed(), "--file",
			m.list(image.Reference, w.registry.Host()+"/"+repository(t)+":absent", "127.0.0.1:1/away:1"))
		require.Equal(t, 1, r.code, r)
		for _, path := range []string{"/metrics", "/readyz"} {
			_, text := ask(t, address, path)
			told.WriteString(text)
		}
		p.signal(syscall.SIGTERM)
		ended := p.wait()
		require.Zero(t, ended.code, ended)
		failures, err := os.ReadFile(m.path("sign-failed.json"))
		require.NoError(t, err)
		told.WriteString(r.String() + ended.String() + string(failures))
		if m == good {
			require.Contains(t, ended.stderr, `"outcome":"signed"`)
		} else {
			require.Contains(t, ended.stderr, `"class":"unauthorized"`)
		}
	}
	// Mistakes, and what looks at settings.
	wrong := bad.write("wrong-pass", "n0t the passphrase")
	for _, args := range [][]string{
		{"--nats-url", url, "--sigstore-key", key.Private, "--sigstore-passphrase-file", wrong},
		{"--nats-url", strings.Replace(url, natsPassword, wrongPassword, 1), "--sigstore-key", key.Private, "--sigstore-passphrase-file", bad.write("pass", key.Passphrase)},
		{"--nats-url", url, "--sigstore-key", bad.write("pass", key.Passphrase)},
		{"config", "print", "--nats-url", url},
		{"setup", "--nats-url", url, "--debug"},
	} {
		told.WriteString(bad.run("sign-worker", args...).String())
	}
	all := told.String() + collector.Text()
	require.Contains(t, collector.Text(), "signfleet.images", "metrics were sent")
	require.Contains(t, collector.Text(), "process bulk", "and spans")
	basic := base64.StdEncoding.EncodeToString([]byte(peers.User + ":" + peers.Password))
	pem := strings.Split(strings.TrimSpace(string(private)), "\n")
	for _, secret := range []string{
		key.Passphrase, "n0t the passphrase", natsPassword, wrongPassword, headerToken, vaultToken, peers.Password, basic, "Bearer ey", "eyJ", pem[1], pem[len(pem)-2],
	} {
		require.NotContains(t, all, secret)
	}
}
