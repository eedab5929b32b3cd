package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// startNATS starts the server of a fleet.
func startNATS(t *testing.T) *peers.NATS {
	t.Helper()
	server, err := peers.StartNATS(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("nats-server:\n%s", server.Logs())
		}
		require.NoError(t, server.Close())
	})
	return server
}

// worker starts a worker with flags alone and waits until it serves.
func (m *machine) worker(server *peers.NATS, more ...string) *program {
	m.t.Helper()
	args := append(m.key(m.w.key), "--nats-url", server.URL(), "--tls-verify=false", "--jobs", "2", "--listen", "")
	p := m.start("sign-worker", append(args, more...)...)
	p.says("serving")
	return p
}

func TestFleetSignsAndDrains(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	w := m.w
	workers := []*program{newMachine(t).worker(server), newMachine(t).worker(server)}
	images, lines := pushMany(t, w.pusher, 10)
	index, err := w.pusher.Index(t.Context(), repository(t)+"/index:1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	absent := w.registry.Host() + "/" + repository(t) + ":absent"

	r := m.run("sign-submit", "--file", m.list(append(lines, index.Reference, absent)...),
		"--nats-url", server.URL(), "--failed", m.failed(), "--skip-login", "--jobs", "3")

	require.Equal(t, 1, r.code, r)
	require.Equal(t, []string{absent}, m.failedLines())
	require.Equal(t, "not-found", m.failures()[0].Class)
	require.Contains(t, r.stderr, "--jobs", "what only workers can obey is warned of")
	require.Contains(t, r.stderr, "--skip-login")
	requireAllSigned(t, w, w.pusher, images)
	requireSigned(t, w.registry.Access(), w.key.Public, index.Reference, index.Child("linux/arm64"))

	for _, p := range workers {
		p.signal(syscall.SIGTERM)
	}
	for _, p := range workers {
		drained := p.wait()
		require.Zero(t, drained.code, drained)
		require.NotContains(t, drained.String(), w.key.Passphrase)
	}
}

// A worker that dies leaves its images to the others; one that drains finishes
// what it has in work.
func TestFleetOutlivesItsWorkers(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	images, lines := pushMany(t, pusher, 6)
	fault, open := gate(9)
	proxy.SetFault(fault)
	dying := newMachine(t).worker(server)
	submission := m.start("sign-submit", "--file", m.list(lines...), "--nats-url", server.URL(), "--failed", m.failed())
	awaitRequests(t, submission, proxy, 10)
	dying.kill()
	proxy.SetFault(nil)
	open()
	other := newMachine(t).worker(server)

	r := submission.wait()

	require.Zero(t, r.code, r)
	requireAllSigned(t, m.w, pusher, images)
	other.signal(syscall.SIGTERM)
	drained := other.wait()
	require.Zero(t, drained.code, drained)
}

// Leaving a fleet cancels nothing, and the way back is told.
func TestFleetGoesOnWithoutItsSubmitter(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	images, lines := pushMany(t, m.w.pusher, 4)
	first := newMachine(t).worker(server) // it sets the queues up, and leaves
	first.signal(syscall.SIGTERM)
	first.wait()
	submission := m.start("sign-submit", "--file", m.list(lines...), "--nats-url", server.URL(),
		"--failed", m.failed(), "--batch", "nightly", "--debug")
	submission.says("nightly")

	submission.signal(syscall.SIGINT)
	r := submission.wait()
	require.Equal(t, 130, r.code, r)
	require.Contains(t, r.stderr, "--resume nightly")

	newMachine(t).worker(server)
	require.Equal(t, lines, m.failedLines(), "what has no outcome is on the list until then")
	_, command, _ := strings.Cut(r.stderr, "\n  sign-submit ")
	command, _, _ = strings.Cut(command, "\n")
	r = m.run("sign-submit", strings.Fields(command)...)
	require.Zero(t, r.code, r)
	requireAllSigned(t, m.w, m.w.pusher, images)
}

func TestFlagsThatOnlyAWorkerCanObey(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, flag := range []string{
		"--sigstore-key=k", "--sigstore-passphrase-file=p", "--tls-verify=false", "--policy=p",
		"--insecure-policy", "--format=tag", "--confirm-writes=always",
	} {
		r := m.run("sign-submit", "--file", m.list("example.org/a/b:1"), "--nats-url", "nats://127.0.0.1:1", flag)
		require.Equal(t, 2, r.code, "%s: %s", flag, r)
		name, _, _ := strings.Cut(flag, "=")
		require.Contains(t, r.stderr, name)
	}
}

// A second signal ends a worker at once, whatever it has in work, and its image
// is signed by another.
func TestSecondSignalEndsAWorkerAtOnce(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	images, lines := pushMany(t, pusher, 1)
	fault, open := gate(1)
	proxy.SetFault(fault)
	setup := m.run("sign-worker", "setup", "--nats-url", server.URL(), "--ack-wait", "3s", "--request-bytes=0", "--record-bytes=0", "--bucket-bytes=0")
	require.Zero(t, setup.code, setup)
	stubborn := newMachine(t).worker(server, "--shutdown-grace", "10m", "--heartbeat", "1s", "--lock-ttl", "5s")
	submission := m.start("sign-submit", "--file", m.list(lines...), "--nats-url", server.URL(), "--failed", m.failed())
	awaitRequests(t, submission, proxy, 2) // the second is held
	stubborn.signal(syscall.SIGTERM)
	stubborn.says("draining")
	stubborn.signal(syscall.SIGTERM)
	require.Equal(t, 130, stubborn.wait().code)
	proxy.SetFault(nil)
	open()

	newMachine(t).worker(server, "--heartbeat", "1s", "--lock-ttl", "5s")
	r := submission.wait()
	require.Zero(t, r.code, r)
	requireAllSigned(t, m.w, pusher, images)
}
