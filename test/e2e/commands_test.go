package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Who waits for a batch may leave and come back, and the batch goes on.
func TestWaitIsLeftAndBegunAgain(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	images, lines := pushMany(t, m.w.pusher, 3)
	setup := m.run("sign-worker", "setup", "--nats-url", server.URL(), "--request-bytes=0", "--record-bytes=0", "--bucket-bytes=0")
	require.Zero(t, setup.code, setup)
	detached := m.run("sign-submit", "--file", m.list(lines...), "--nats-url", server.URL(), "--detach")
	require.Zero(t, detached.code, detached)
	batch := strings.TrimSpace(detached.stdout)

	waiting := m.start("sign-submit", "wait", batch, "--nats-url", server.URL())
	waiting.says("batch " + batch)
	waiting.signal(syscall.SIGINT)
	r := waiting.wait()
	require.Equal(t, 130, r.code, r)
	require.Empty(t, r.stdout)

	newMachine(t).worker(server)
	elsewhere := newMachine(t)
	r = elsewhere.run("sign-submit", "wait", batch, "--nats-url", server.URL())
	require.Zero(t, r.code, r)
	require.Contains(t, r.stdout, "3 images: 3 signed")
	requireAllSigned(t, m.w, m.w.pusher, images)
}

// The first Ctrl-C is noticed while a pipe gives no list.
func TestInterruptedBeforeTheList(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	require.NoError(t, unix.Mkfifo(m.path("list"), 0o600))
	writer := make(chan *os.File, 1)
	go func() {
		f, _ := os.OpenFile(m.path("list"), os.O_WRONLY, 0) // closing none fails below
		writer <- f
	}()
	p := m.start("sign-submit", "--file", m.path("list"), "--nats-url", "nats://127.0.0.1:1", "--jobs", "1")
	p.says("--jobs is ignored") // and the list is next
	f := <-writer
	p.signal(syscall.SIGINT)
	r := p.wait()
	require.Equal(t, 130, r.code, r)
	require.NoError(t, f.Close())
}
