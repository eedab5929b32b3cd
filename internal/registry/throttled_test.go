package registry_test

import (
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestThrottledRequestsAreDoneAfterThePause(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 0))
	o := withCredentials(t, machine(t), r.Host())
	var told atomic.Int32
	o.OnThrottled = func(host string) {
		if host == r.Host() {
			told.Add(1)
		}
	}
	repository := repositoryOf(t, newClient(t, o), r, "team/app")
	for _, kind := range []registrytest.Kind{registrytest.KindToken, registrytest.KindUpload, registrytest.KindManifest} {
		r.Fail(registrytest.Match{Kind: kind}, registrytest.Fault{Status: 429, RetryAfter: "1"})
	}
	require.NoError(t, repository.PutBlob(t.Context(), []byte("body")))
	require.NoError(t, repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil))
	stored, ok := r.Blob("team/app", digest.FromString("body").String())
	require.True(t, ok)
	require.Equal(t, "body", string(stored))
	require.GreaterOrEqual(t, told.Load(), int32(4), "of being asked, and of three refusals")
}

func TestAHostThatIsThrottledForLongIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	c := newClient(t, machine(t))
	repository := repositoryOf(t, c, r, "team/app")
	r.Fail(registrytest.Match{Method: "PUT"}, registrytest.Fault{Status: 429, RetryAfter: "60"})
	err := repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil)
	requireStatus(t, err, 429)
	require.Equal(t, time.Minute, factsOf(t, err).RetryAfter)
	require.False(t, registry.OutcomeUnknown(err))

	sent := len(r.Requests())
	for _, err := range []error{
		repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil),
		repository.PutBlob(t.Context(), []byte("body")),
		repository.PutConstant(t.Context(), []byte("{}")),
	} {
		var throttled *registry.ThrottledError
		require.ErrorAs(t, err, &throttled)
		require.Equal(t, r.Host(), throttled.Host)
		require.Greater(t, throttled.For, 10*time.Second)
		require.ErrorContains(t, err, "wants no requests for")
		var answer *registry.Error
		require.False(t, errors.As(err, &answer), "nobody has answered")
		require.False(t, registry.OutcomeUnknown(err))
	}
	require.Len(t, r.Requests(), sent)
	require.Len(t, c.Loads(), 1)
}

func TestAStorageThatThrottlesIsPausedAlone(t *testing.T) {
	t.Parallel()
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(storage.Close)
	server := httptest.NewServer(http.RedirectHandler(storage.URL+"/x", http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	c := newClient(t, machine(t))
	repository, err := c.Repository(server.Listener.Addr().String() + "/team/app")
	require.NoError(t, err)
	_, err = repository.Blob(t.Context(), digest.FromString("x"), 1<<10)
	requireStatus(t, err, 429)
	require.True(t, factsOf(t, err).Foreign)
	paused := make(map[string]bool)
	for _, load := range c.Loads() {
		paused[load.Host] = load.PausedFor > 0
	}
	require.Equal(t, map[string]bool{server.Listener.Addr().String(): false, storage.Listener.Addr().String(): true}, paused)

	_, err = repository.Blob(t.Context(), digest.FromString("x"), 1<<10)
	var throttled *registry.ThrottledError
	require.ErrorAs(t, err, &throttled)
	require.Equal(t, storage.Listener.Addr().String(), throttled.Host)
}

func TestRatesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{-1, math.NaN(), math.Inf(1)} {
		o := machine(t)
		o.HostRate = rate
		_, err := registry.New(o)
		require.ErrorContains(t, err, "HostRate")
	}
}
