package e2e

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

func TestRegistryThatIsDown(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, repo := m.w, repository(t)
	down, pusher := startRegistry(t, peers.RegistryOptions{})
	lost, err := pusher.Single(t.Context(), "team/app:1.0", "linux/amd64")
	require.NoError(t, err)
	require.NoError(t, down.Stop())
	image, err := w.pusher.Single(t.Context(), repo+":1.0", "linux/amd64")
	require.NoError(t, err)

	r := m.submit(m.list(lost.Reference, image.Reference), "--backoff", "100ms")

	require.Equal(t, 1, r.code, r)
	require.Equal(t, []string{lost.Reference}, m.failedLines())
	require.Equal(t, "network", m.failures()[0].Class, m.failures()[0].Reason)
	requireSigned(t, w.registry.Access(), w.key.Public, image.Reference)

	// Back up, the failed list is what remains to be done.
	require.NoError(t, down.Start(t.Context()))
	r = m.submit(m.failed())
	require.Zero(t, r.code, r)
	require.Nil(t, m.failedLines(), "the stale list must be gone")
	require.NoFileExists(t, m.path("sign-failed.json"))
	requireSigned(t, down.Access(), w.key.Public, lost.Reference)
}

func TestRegistryThatRecovers(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	image, err := pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	proxy.Reset()
	proxy.SetFault(peers.FailFirst(2, http.StatusInternalServerError))

	r := m.submit(m.list(image.Reference), "--skip-login", "--backoff", "100ms")

	require.Zero(t, r.code, r)
	require.Equal(t, http.StatusInternalServerError, proxy.Requests()[1].Status, "it must have failed before")
	requireSigned(t, m.w.registry.Access(), m.w.key.Public, image.Reference, image.Child("linux/arm64"))
}

// Answers that get lost must neither lose nor repeat a signature.
func TestRegistryThatLosesAnswers(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	image, err := pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	lost := 0
	proxy.SetFault(func(_ int, r *http.Request) peers.Fault {
		if r.Method == http.MethodPut && lost < 2 {
			lost++
			return peers.Fault{Lose: true}
		}
		return peers.Fault{}
	})

	r := m.submit(m.list(image.Reference), "--skip-login", "--backoff", "100ms")

	require.Zero(t, r.code, r)
	requireSigned(t, m.w.registry.Access(), m.w.key.Public, image.Reference, image.Child("linux/arm64"))
	for _, digest := range []string{image.Digest, image.Children[0].Digest, image.Children[1].Digest} {
		requireSignatures(t, 1, pusher, image, digest)
	}
}

func TestRegistryThatHangs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	image, err := pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	proxy.SetFault(peers.Always(peers.Fault{Hang: true}))

	r := m.submit(m.list(image.Reference), "--skip-login", "--timeout", "1s", "--backoff", "100ms")

	require.Equal(t, 1, r.code, r)
	require.Equal(t, []string{image.Reference}, m.failedLines())
	require.Equal(t, "timeout", m.failures()[0].Class, m.failures()[0].Reason)
	proxy.SetFault(nil)
	requireUnsigned(t, pusher, image, image.Digest)
}

// A login that fails is only a warning: the images decide.
func TestLoginThatFailsIsAWarning(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	proxy, pusher := viaProxy(t)
	image, err := pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
	require.NoError(t, err)
	proxy.Reset()
	proxy.SetFault(func(_ int, r *http.Request) peers.Fault {
		if r.URL.Path == "/v2/" {
			return peers.Fault{Status: http.StatusTeapot}
		}
		return peers.Fault{}
	})

	r := m.submit(m.list(image.Reference))

	require.Zero(t, r.code, r)
	require.Equal(t, 1, proxy.Counts()["GET ping"], "each registry is asked once")
	require.Contains(t, r.stderr, proxy.Host())
}
