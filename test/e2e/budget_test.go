package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry/registrytest"
	"github.com/signfleet/signfleet/test/peers"
)

// What an index and two of its children cost: to sign, to find signed already,
// and once more for the first image of a repository and for the first of a
// process. A process signs two images of one repository, one after the other;
// then another process signs them again.
func TestRequestsPerImage(t *testing.T) {
	t.Parallel()
	type counts = map[string]int
	for name, c := range map[string]struct {
		registry func(t *testing.T) string
		format   string
		signs    counts // each image
		once     counts // the repository and the process
		again    counts // each image that is signed already
	}{
		"distribution, tag: 13": {
			distribution, "tag",
			counts{"GET manifest": 1 + 3, "POST upload": 3, "PUT upload": 3, "PUT manifest": 3},
			counts{"POST upload": 1, "PUT upload": 1}, // the config that attachments share
			counts{"GET manifest": 4},
		},
		"distribution, referrer: 16": {
			distribution, "referrer",
			counts{"GET manifest": 1 + 3, "POST upload": 3, "PUT upload": 3, "PUT manifest": 3 + 3}, // the bundle's, and the index
			counts{"POST upload": 1, "PUT upload": 1, "GET referrers": 1},                           // the empty config; is there an API?
			counts{"GET manifest": 4},
		},
		"distribution, both: 28": {
			distribution, "tag,referrer",
			counts{"GET manifest": 1 + 6, "POST upload": 6, "PUT upload": 6, "PUT manifest": 9},
			counts{"POST upload": 2, "PUT upload": 2, "GET referrers": 1},
			counts{"GET manifest": 1 + 6},
		},
		"single POST and referrers API, tag: 10": {
			modern, "tag",
			counts{"GET manifest": 1 + 3, "POST upload": 3, "PUT manifest": 3},
			counts{"POST upload": 1},
			counts{"GET manifest": 4},
		},
		"single POST and referrers API, referrer: 10": {
			modern, "referrer",
			counts{"GET manifest": 1, "HEAD manifest": 3, "POST upload": 3, "PUT manifest": 3},
			counts{"POST upload": 1, "GET referrers": 1},
			counts{"GET manifest": 1, "HEAD manifest": 3},
		},
		"single POST and referrers API, both: 19": {
			modern, "tag,referrer",
			counts{"GET manifest": 1 + 3, "HEAD manifest": 3, "POST upload": 6, "PUT manifest": 6},
			counts{"POST upload": 2, "GET referrers": 1},
			counts{"GET manifest": 4, "HEAD manifest": 3},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			proxy, pusher := proxyTo(t, c.registry(t), peers.Access{PlainHTTP: true})
			var lines []string
			for _, tag := range []string{"1.0", "2.0"} {
				image, err := pusher.Index(t.Context(), repository(t)+":"+tag, "linux/amd64", "linux/arm64")
				require.NoError(t, err)
				lines = append(lines, image.Reference)
			}
			proxy.Reset()

			m.signWith(m.list(lines...), append(m.key(m.w.key), "--format", c.format)...)

			require.Equal(t, sum(c.signs, c.signs, c.once), proxy.Counts())
			proxy.Reset()

			again := newMachine(t)
			r := again.signWith(again.list(lines...), append(again.key(m.w.key), "--format", c.format)...)

			require.Contains(t, r.stdout, "2 signed already")
			asked := counts{}
			if n := c.once["GET referrers"]; n > 0 {
				asked["GET referrers"] = n
			}
			require.Equal(t, sum(c.again, c.again, asked), proxy.Counts(), "nothing is written")
		})
	}
}

// distribution is the registry that all tests share: it takes a blob in two
// requests and lists no referrers.
func distribution(t *testing.T) string { return shared(t).registry.Host() }

// modern is a registry that takes a blob in one request and lists referrers.
func modern(t *testing.T) string { return registrytest.New(t, registrytest.WithReferrers(true)).Host() }

// sum adds up counts of requests.
func sum(all ...map[string]int) map[string]int {
	total := map[string]int{}
	for _, counts := range all {
		for request, n := range counts {
			total[request] += n
		}
	}
	return total
}

// However many signatures a digest gets under its tag, they are one manifest:
// each name that an image has costs a blob, and each key nothing at all.
func TestSeveralSignaturesAreOneManifest(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	second := newKey(t)
	proxy, pusher := viaProxy(t)
	names := []string{"--identity", proxy.Host() + "=" + proxy.Host(), "--identity", proxy.Host() + "=registry.example.com"}
	for name, c := range map[string]struct {
		flags      []string
		signatures int
		payloads   int // of each digest
	}{
		"one":                    {nil, 1, 1},
		"two keys":               {m.key(second), 2, 1},
		"two names":              {names, 2, 2},
		"two keys and two names": {append(m.key(second), names...), 4, 2},
	} {
		t.Run(name, func(t *testing.T) {
			image, err := pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
			require.NoError(t, err)
			proxy.Reset()

			own := newMachine(t)
			own.signWith(own.list(image.Reference), append(own.key(m.w.key), c.flags...)...)

			uploads := 3*c.payloads + 1 // and the config
			require.Equal(t, map[string]int{
				"GET manifest": 4, "POST upload": uploads, "PUT upload": uploads, "PUT manifest": 3,
			}, proxy.Counts())
			requireSignatures(t, c.signatures, pusher, image, image.Digest)
		})
	}
}

// One token serves a repository, and no token is ever refused: what it has to
// allow is known before it is asked for.
func TestTokensAreNotRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	registry, _ := startRegistry(t, peers.RegistryOptions{Auth: peers.TokenAuth})
	proxy, _ := proxyTo(t, registry.Host(), registry.Access())
	// By name, as the token server: one at an address is not trusted.
	host := strings.Replace(proxy.Host(), "127.0.0.1", "localhost", 1)
	pusher, err := peers.NewPusher(host, registry.Access())
	require.NoError(t, err)
	var lines []string
	for _, path := range []string{"team/app:1", "team/app:2", "team/proxy:1", "team/proxy:2"} {
		image, err := pusher.Index(t.Context(), path, "linux/amd64", "linux/arm64")
		require.NoError(t, err)
		lines = append(lines, image.Reference)
	}
	_, err = peers.WriteAuthFile(m.path(".docker"), host, peers.User, peers.Password)
	require.NoError(t, err)
	before := registry.Tokens().Issued()
	proxy.Reset()

	m.signWith(m.list(lines...), append(m.key(m.w.key), "--format", "tag,referrer")...)

	require.Equal(t, 2, registry.Tokens().Issued()-before, "one for each repository")
	refusals := slices.DeleteFunc(proxy.Requests(), func(r peers.Request) bool { return r.Status != http.StatusUnauthorized })
	require.Len(t, refusals, 1, "where tokens are to be had is learned once")
}

// Others' signatures stay, and a second key's joins them.
func TestAppendToWhatCosignSigned(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w, access := m.w, m.w.registry.Access()
	image, err := w.pusher.Index(t.Context(), repository(t)+":1.0", "linux/amd64", "linux/arm64")
	require.NoError(t, err)
	theirs, err := peers.GenerateKey(t.Context(), t.TempDir(), "theirs")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), theirs,
		"--recursive", "--sign-container-identity", image.Reference))

	r := m.submit(m.list(image.Reference))

	require.Zero(t, r.code, r)
	for _, key := range []peers.KeyPair{theirs, w.key} {
		requireSigned(t, access, key.Public, image.Reference, image.ByDigest(), image.Child("linux/amd64"))
	}
	requireSignatures(t, 2, w.pusher, image, image.Digest)

	// And cosign appends to ours in turn.
	third, err := peers.GenerateKey(t.Context(), t.TempDir(), "third")
	require.NoError(t, err)
	require.NoError(t, peers.CosignSign(t.Context(), access, image.ByDigest(), third,
		"--sign-container-identity", image.Reference))
	for _, key := range []peers.KeyPair{theirs, w.key, third} {
		requireSigned(t, access, key.Public, image.Reference)
	}
	r = newMachine(t).submit(m.list(image.Reference))
	require.Zero(t, r.code, r)
	requireSignatures(t, 3, w.pusher, image, image.Digest)
}
