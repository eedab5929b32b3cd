package peers_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

func startRegistry(t *testing.T, o peers.RegistryOptions) *peers.Registry {
	t.Helper()
	r, err := peers.StartRegistry(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("registry:\n%s", r.Logs())
		}
		require.NoError(t, r.Close())
	})
	return r
}

func newPusher(t *testing.T, r *peers.Registry) *peers.Pusher {
	t.Helper()
	p, err := peers.NewPusher(r.Host(), r.Access())
	require.NoError(t, err)
	return p
}

// What cosign signs both verifiers must accept, over every way to a registry:
// else a test that fails with our signatures says nothing about them.
func TestVerifiersAcceptWhatCosignSigned(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]peers.RegistryOptions{
		"http":       {},
		"https":      {TLS: true},
		"basic auth": {Auth: peers.BasicAuth, TLS: true},
		"token auth": {Auth: peers.TokenAuth},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := startRegistry(t, options)
			access := registry.Access()
			image, err := newPusher(t, registry).Index(t.Context(), "team/app:1.0", "linux/amd64", "linux/arm64")
			require.NoError(t, err)
			key, err := peers.GenerateKey(t.Context(), t.TempDir(), "secret")
			require.NoError(t, err)
			other, err := peers.GenerateKey(t.Context(), t.TempDir(), "")
			require.NoError(t, err)

			require.Error(t, peers.CosignVerify(t.Context(), access, image.Reference, key.Public))
			requireRejected(t, access, image.Reference, key.Public)

			require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), key,
				"--sign-container-identity", image.Reference))

			for _, reference := range []string{image.Reference, image.ByDigest()} {
				require.NoError(t, peers.CosignVerify(t.Context(), access, reference, key.Public))
				require.NoError(t, peers.PolicyVerify(t.Context(), access, reference, key.Public))
			}
			require.Error(t, peers.CosignVerify(t.Context(), access, image.Reference, other.Public))
			requireRejected(t, access, image.Reference, other.Public)
			requireRejected(t, access, image.Child("linux/arm64"), key.Public)
		})
	}
}

func TestCosignBundleHidesTheClassicSignature(t *testing.T) {
	t.Parallel()
	registry := startRegistry(t, peers.RegistryOptions{})
	access := registry.Access()
	image, err := newPusher(t, registry).Single(t.Context(), "team/app:1.0", "linux/amd64")
	require.NoError(t, err)
	ours, err := peers.GenerateKey(t.Context(), t.TempDir(), "ours")
	require.NoError(t, err)
	theirs, err := peers.GenerateKey(t.Context(), t.TempDir(), "theirs")
	require.NoError(t, err)

	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), ours))
	require.NoError(t, peers.CosignSignBundle(t.Context(), access, image.ByDigest(), theirs))

	require.Error(t, peers.CosignVerify(t.Context(), access, image.Reference, ours.Public))
	require.NoError(t, peers.CosignVerify(t.Context(), access, image.Reference, ours.Public, "--new-bundle-format=false"))
	require.NoError(t, peers.CosignVerify(t.Context(), access, image.Reference, theirs.Public))
	require.NoError(t, peers.BundleVerify(t.Context(), access, image.Reference, theirs.Public))
	var rejected *peers.RejectedError
	require.ErrorAs(t, peers.BundleVerify(t.Context(), access, image.Reference, ours.Public), &rejected)
}

func TestRegistryKeepsImagesAndAddressOverRestarts(t *testing.T) {
	t.Parallel()
	registry := startRegistry(t, peers.RegistryOptions{})
	pusher := newPusher(t, registry)
	host := registry.Host()
	image, err := pusher.List(t.Context(), "team/list:1", "linux/amd64", "linux/arm64/v8")
	require.NoError(t, err)

	require.NoError(t, registry.Restart(t.Context()))
	_, err = pusher.Manifest(t.Context(), image.Reference)
	require.NoError(t, err)

	require.NoError(t, registry.Kill())
	_, err = pusher.Manifest(t.Context(), image.Reference)
	require.Error(t, err)
	require.NoError(t, registry.Start(t.Context()))
	_, err = pusher.Manifest(t.Context(), image.Child("linux/arm64/v8"))
	require.NoError(t, err)
	require.Equal(t, host, registry.Host())
}

func TestImagesHaveTheShapesTheyAreNamedFor(t *testing.T) {
	t.Parallel()
	registry := startRegistry(t, peers.RegistryOptions{})
	p := newPusher(t, registry)
	for name, c := range map[string]struct {
		push func(context.Context, string) (peers.Image, error)
		has  []string
	}{
		"index": {
			func(ctx context.Context, path string) (peers.Image, error) {
				return p.Index(ctx, path, "linux/amd64", "linux/arm/v7")
			},
			[]string{"application/vnd.oci.image.index.v1+json", "attestation-manifest", `"variant":"v7"`},
		},
		"list": {
			func(ctx context.Context, path string) (peers.Image, error) { return p.List(ctx, path, "linux/amd64") },
			[]string{"manifest.list.v2+json", "distribution.manifest.v2+json"},
		},
		"single": {
			func(ctx context.Context, path string) (peers.Image, error) { return p.Single(ctx, path, "linux/amd64") },
			[]string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"},
		},
		"docker": {
			func(ctx context.Context, path string) (peers.Image, error) {
				return p.DockerSingle(ctx, path, "linux/amd64")
			},
			[]string{"distribution.manifest.v2+json", "docker.container.image.v1+json"},
		},
		"chart": {p.Chart, []string{"application/vnd.cncf.helm.config.v1+json"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image, err := c.push(t.Context(), "shapes/"+name+":1")
			require.NoError(t, err)
			again, err := c.push(t.Context(), "shapes/"+name+":1")
			require.NoError(t, err)
			require.Equal(t, image, again, "pushed twice, it must be the same")
			body, err := p.Manifest(t.Context(), image.ByDigest())
			require.NoError(t, err)
			for _, part := range c.has {
				require.Contains(t, string(body), part)
			}
		})
	}
}

func TestProxyCountsAndSpoils(t *testing.T) {
	t.Parallel()
	registry := startRegistry(t, peers.RegistryOptions{})
	proxy, err := peers.StartProxy(registry.Host(), registry.Access())
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	pusher, err := peers.NewPusher(proxy.Host(), registry.Access())
	require.NoError(t, err)
	image, err := pusher.Single(t.Context(), "team/app:1.0", "linux/amd64")
	require.NoError(t, err)
	counts := proxy.Counts()
	require.Equal(t, 1, counts["PUT manifest"])
	require.Equal(t, 2, counts["PUT upload"], "the layer and the config must be finished through the proxy")
	url := "http://" + proxy.Host() + "/v2/team/app/manifests/" + image.Digest

	get := func(ctx context.Context) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}

	proxy.Reset()
	proxy.SetFault(peers.FailShare(0.5, http.StatusServiceUnavailable))
	var statuses []int
	for range 4 {
		status, err := get(t.Context())
		require.NoError(t, err)
		statuses = append(statuses, status)
	}
	require.Equal(t, []int{200, 503, 200, 503}, statuses)
	require.Equal(t, map[string]int{"GET manifest": 4}, proxy.Counts())
	require.Equal(t, http.StatusServiceUnavailable, proxy.Requests()[1].Status)

	proxy.SetFault(peers.Always(peers.Fault{Lose: true}))
	_, err = get(t.Context())
	require.Error(t, err)

	proxy.SetFault(peers.Always(peers.Fault{Hang: true}))
	ctx, cancel := context.WithCancel(t.Context())
	arrived := proxy.Arrived()
	go func() {
		<-arrived
		cancel()
	}()
	_, err = get(ctx)
	require.ErrorIs(t, err, context.Canceled)

	proxy.SetFault(nil)
	status, err := get(t.Context())
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
}

func TestNATSKeepsItsStreamsOverAKill(t *testing.T) {
	t.Parallel()
	server, err := peers.StartNATS(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	url := server.URL()
	withJetStream(t, url, func(ctx context.Context, js jetstream.JetStream) {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept.>"}})
		require.NoError(t, err)
		_, err = js.Publish(ctx, "kept.one", []byte("1"))
		require.NoError(t, err)
	})
	require.NoError(t, server.Kill())
	require.NoError(t, server.Start(t.Context()))
	require.Equal(t, url, server.URL())
	withJetStream(t, url, func(ctx context.Context, js jetstream.JetStream) {
		stream, err := js.Stream(ctx, "KEPT")
		require.NoError(t, err)
		require.EqualValues(t, 1, stream.CachedInfo().State.Msgs)
	})
}

func TestTokensAreIssuedToTheKnownAccountOnly(t *testing.T) {
	t.Parallel()
	registry := startRegistry(t, peers.RegistryOptions{Auth: peers.TokenAuth})
	_, err := newPusher(t, registry).Single(t.Context(), "team/app:1.0", "linux/amd64")
	require.NoError(t, err)
	require.Positive(t, registry.Tokens().Issued())

	anonymous, err := peers.NewPusher(registry.Host(), peers.Access{PlainHTTP: true})
	require.NoError(t, err)
	_, err = anonymous.Single(t.Context(), "team/app:2.0", "linux/amd64")
	require.ErrorContains(t, err, "401")
}

func requireRejected(t *testing.T, access peers.Access, image, publicKey string) {
	t.Helper()
	var rejected *peers.RejectedError
	require.ErrorAs(t, peers.PolicyVerify(t.Context(), access, image, publicKey), &rejected)
	require.True(t, strings.Contains(rejected.Reason, "signature"), rejected.Reason)
}

func withJetStream(t *testing.T, url string, do func(context.Context, jetstream.JetStream)) {
	t.Helper()
	conn, err := nats.Connect(url)
	require.NoError(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	do(ctx, js)
}
