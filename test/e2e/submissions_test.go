package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

// gate holds requests from the one with number n on until it is opened.
func gate(n int) (fault peers.FaultFunc, open func()) {
	hold := make(chan struct{})
	return func(i int, _ *http.Request) peers.Fault {
		if i >= n {
			return peers.Fault{Hold: hold}
		}
		return peers.Fault{}
	}, func() { close(hold) }
}

func TestSameSubmissionTwiceAtOnceIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	image, err := pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	list := m.list(image.Reference)
	fault, open := gate(0)
	proxy.SetFault(fault)
	arrived := proxy.Arrived()
	first := m.start("sign-submit", m.embedded(list, "--skip-login")...)
	first.within(arrived, "the first request")

	second := m.submit(list, "--skip-login")

	require.Positive(t, second.code)
	require.Contains(t, second.stderr, strconv.Itoa(first.cmd.Process.Pid), "it names who is at work")
	open()
	r := first.wait()
	require.Zero(t, r.code, r)
	requireSigned(t, m.w.registry.Access(), m.w.key.Public, image.Reference)
	requireSignatures(t, 1, pusher, image, image.Digest)
}

// Two submissions with a key each meet at one attachment: the second comes while
// the first is between its read and its write. Both signatures stay, by the
// locks alone.
func TestTwoSubmissionsAtOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	image, err := pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	other, err := peers.GenerateKey(t.Context(), t.TempDir(), "other")
	require.NoError(t, err)
	list := m.list(image.Reference)
	flags := []string{"--file", list, "--failed", m.failed(), "--tls-verify=false", "--skip-login", "--confirm-writes", "never"}
	writing, met, hold := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var firstWrite, secondRead sync.Once
	proxy.SetFault(func(_ int, r *http.Request) peers.Fault {
		select {
		case <-writing:
			if strings.HasSuffix(r.URL.Path, "/manifests/1.0") {
				secondRead.Do(func() { close(met) })
			}
		default:
		}
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".sig") {
			firstWrite.Do(func() { close(writing) })
			return peers.Fault{Hold: hold}
		}
		return peers.Fault{}
	})
	first := m.start("sign-submit", append(m.key(m.w.key), flags...)...)
	first.within(writing, "the first write")
	second := m.start("sign-submit", append(m.key(other), flags...)...)
	second.within(met, "the second's first read")
	close(hold)

	for _, p := range []*program{first, second} {
		r := p.wait()
		require.Zero(t, r.code, r)
	}
	for _, digest := range []string{image.ByDigest(), image.Child("linux/amd64"), image.Child("linux/arm64")} {
		requireSigned(t, m.w.registry.Access(), m.w.key.Public, digest)
		requireSigned(t, m.w.registry.Access(), other.Public, digest)
	}
	requireSignatures(t, 2, pusher, image, image.Digest)
}

// What was done before a kill is not done again, and what was not is.
func TestKilledSubmissionGoesOn(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	images, lines := pushMany(t, pusher, 12)
	proxy.Reset()
	// Each image takes a GET and 5 requests to write: so a few are done.
	fault, open := gate(40)
	defer open()
	proxy.SetFault(fault)
	first := m.start("sign-submit", m.embedded(m.list(lines...), "--skip-login", "--jobs", "2")...)
	awaitRequests(t, first, proxy, 41)
	first.kill()
	done := written(proxy)
	require.GreaterOrEqual(t, done, 4)
	require.Less(t, done, 12)
	proxy.SetFault(nil)
	proxy.Reset()

	r := m.submit(m.list(lines...), "--skip-login", "--jobs", "2")

	require.Zero(t, r.code, r)
	// Up to two were signed but not noted yet, and are looked at again.
	require.LessOrEqual(t, written(proxy), 12-done)
	require.LessOrEqual(t, resolved(proxy), 12-done+2)
	requireAllSigned(t, m.w, pusher, images)

	// A third run is a new batch: all is seen to be signed, nothing is written.
	proxy.Reset()
	r = m.submit(m.list(lines...), "--skip-login")
	require.Zero(t, r.code, r)
	require.Equal(t, map[string]int{"GET manifest": 24, "GET blob": 12}, proxy.Counts())
}

func TestInterruptedSubmission(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	images, lines := pushMany(t, pusher, 8)
	proxy.Reset()
	fault, open := gate(20)
	proxy.SetFault(fault)
	first := m.start("sign-submit", m.embedded(m.list(lines...), "--skip-login", "--jobs", "2")...)
	awaitRequests(t, first, proxy, 21)

	first.signal(syscall.SIGINT)
	first.says("interrupted")
	open()
	r := first.wait()

	require.Equal(t, 130, r.code, r)
	notDone := m.failedLines()
	require.NotEmpty(t, notDone)
	require.Less(t, len(notDone), 8, "what was in work is finished")
	require.Equal(t, notDone, lines[8-len(notDone):], "the list is in order")
	for _, f := range m.failures() {
		require.NotEmpty(t, f.Reason)
	}

	proxy.SetFault(nil)
	r = m.submit(m.list(lines...), "--skip-login")
	require.Zero(t, r.code, r)
	require.Nil(t, m.failedLines())
	requireAllSigned(t, m.w, pusher, images)
}

func TestFailedListIsWhatFailed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, host, repo := m.w, m.w.registry.Host(), repository(t)
	image, err := w.pusher.Single(t.Context(), repo+":1.0", "linux/amd64")
	require.NoError(t, err)
	absent := func(tag string) string { return host + "/" + repo + ":" + tag }
	const unreadable = "what is this?"

	r := m.submit(m.list(absent("z"), unreadable, image.Reference, absent("a"), absent("z"), absent("m")))

	require.Equal(t, 1, r.code, r)
	require.Equal(t, []string{absent("z"), unreadable, absent("a"), absent("m")}, m.failedLines(),
		"in the order of the list, duplicates once")
	var classes []string
	for _, f := range m.failures() {
		classes = append(classes, f.Class)
		require.NotEmpty(t, f.Reason)
	}
	require.Equal(t, []string{"not-found", "invalid-request", "not-found", "not-found"}, classes)
	data, err := os.ReadFile(m.path("sign-failed.json"))
	require.NoError(t, err)
	require.True(t, json.Valid(data))

	// Fed back, it is a list like any other.
	again := m.submit(m.failed())
	require.Equal(t, 1, again.code, again)
	require.Len(t, m.failedLines(), 4)
}

// A policy whose key is not there would reject everything: that is told before
// anything is done. What it asks of other registries changes nothing here.
func TestPolicyThatCannotBeEvaluatedIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w := m.w
	image, err := w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	const policy = ".config/containers/policy.json"
	elsewhere := func(key string) string {
		return `{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"example.org":[{"type":"sigstoreSigned","keyPath":"` + key + `"}]}}}`
	}
	m.write(policy, elsewhere("/nowhere/origin.pub"))
	r := m.submit(m.list(image.Reference))
	require.Equal(t, 2, r.code, r)
	require.Contains(t, r.stderr, "sigstoreSigned")
	require.Contains(t, r.stderr, "/nowhere/origin.pub")
	requireUnsigned(t, w.pusher, image, image.Digest)

	m.write(policy, elsewhere(w.key.Public))
	r = m.submit(m.list(image.Reference))
	require.Zero(t, r.code, r)
	requireSigned(t, w.registry.Access(), w.key.Public, image.Reference)
}

// pushMany pushes small images and returns them and the lines of a list.
func pushMany(t *testing.T, pusher *peers.Pusher, count int) (images []peers.Image, lines []string) {
	t.Helper()
	for i := range count {
		image, err := pusher.Single(t.Context(), fmt.Sprintf("%s:%d", repository(t), i), "linux/amd64")
		require.NoError(t, err)
		images, lines = append(images, image), append(lines, image.Reference)
	}
	return images, lines
}

// awaitRequests waits until a proxy has begun so many requests since its fault was set.
func awaitRequests(t *testing.T, p *program, proxy *peers.Proxy, count int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		arrived := proxy.Arrived()
		if proxy.Seen() >= count {
			return
		}
		select {
		case <-arrived:
		case <-p.done:
			require.Fail(t, "the program ended early", "%s", p.result())
		case <-deadline:
			require.Fail(t, "waited too long for requests", "%d of %d", proxy.Seen(), count)
		}
	}
}

// written counts the attachments that a proxy passed on.
func written(proxy *peers.Proxy) int {
	count := 0
	for _, r := range proxy.Requests() {
		if r.Method == http.MethodPut && r.Kind == "manifest" && r.Status == http.StatusCreated {
			count++
		}
	}
	return count
}

// resolved counts the images that were asked for through a proxy.
func resolved(proxy *peers.Proxy) int {
	count := 0
	for _, r := range proxy.Requests() {
		if r.Method == http.MethodGet && r.Kind == "manifest" && r.Status == http.StatusOK && !strings.HasSuffix(r.Path, ".sig") {
			count++
		}
	}
	return count
}

// requireAllSigned demands one signature on each image, and has some verified.
func requireAllSigned(t *testing.T, w *world, pusher *peers.Pusher, images []peers.Image) {
	t.Helper()
	for _, image := range images {
		requireSignatures(t, 1, pusher, image, image.Digest)
	}
	requireSigned(t, w.registry.Access(), w.key.Public, images[0].Reference, images[len(images)-1].Reference)
}
