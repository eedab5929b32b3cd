package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

var errLost = errors.New("the lease is lost")

func requireStatus(t *testing.T, err error, status int) {
	t.Helper()
	require.Equal(t, status, factsOf(t, err).Status, err)
}

func factsOf(t *testing.T, err error) *registry.Error {
	t.Helper()
	var failed *registry.Error
	require.ErrorAs(t, err, &failed)
	return failed
}

func TestErrorTellsWhatTheRegistrySaid(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	r.Fail(registrytest.Match{Method: "PUT"}, registrytest.Fault{
		Status: 429, Code: "TOOMANYREQUESTS", Message: "slow\ndown, see https://r/x?sig=hidden", RetryAfter: "30",
	})
	err := repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil)
	requireStatus(t, err, 429)
	failed := factsOf(t, err)
	require.Equal(t, []registry.Diagnostic{{Code: "TOOMANYREQUESTS", Message: "slow down, see https://r/x?REDACTED"}}, failed.Codes)
	require.Equal(t, 30*time.Second, failed.RetryAfter)
	require.False(t, failed.Network())
	require.EqualError(t, err, "write manifest "+repository.Name()+":v1: PUT "+r.URL()+"/v2/team/app/manifests/v1: "+
		"429 Too Many Requests: TOOMANYREQUESTS: slow down, see https://r/x?REDACTED")
}

func TestErrorBodiesOfAllKinds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	tests := map[string]struct {
		contentType, body string
		want              []registry.Diagnostic
	}{
		"several":        {"application/json", `{"errors":[{"code":"A","message":"a"},{"code":"B"}]}`, []registry.Diagnostic{{"A", "a"}, {"B", ""}}},
		"detail":         {"application/json", `{"errors":[{"code":"A","message":"a","detail":"more"}]}`, []registry.Diagnostic{{"A", "a: more"}}},
		"numeric code":   {"application/json", `{"errors":[{"code":12,"message":"a","detail":{"k":1}}]}`, []registry.Diagnostic{{"12", "a"}}},
		"a lone message": {"application/json", `{"message":"no"}`, []registry.Diagnostic{{"", "no"}}},
		"text":           {"text/plain; charset=utf-8", "404 page\n not found", []registry.Diagnostic{{"", "404 page not found"}}},
		"long":           {"text/plain", long, []registry.Diagnostic{{"", long[:512] + "..."}}},
		"a page":         {"text/html", "<html>", nil},
		"an array":       {"application/json", "[1]", nil},
		"nothing":        {"", "", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository := plain(t)
			r.Fail(registrytest.Match{}, registrytest.Fault{Status: 400, ContentType: test.contentType, Body: test.body})
			_, err := repository.Manifest(t.Context(), "v1")
			requireStatus(t, err, 400)
			require.Equal(t, test.want, factsOf(t, err).Codes)
		})
	}
}

func TestImmutableTags(t *testing.T) {
	t.Parallel()
	body := []byte("{}")
	for _, like := range registrytest.ImmutableRegistries() {
		t.Run(string(like), func(t *testing.T) {
			t.Parallel()
			_, repository := plain(t, registrytest.WithImmutableTags(like))
			require.NoError(t, repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, body, nil))
			require.NoError(t, repository.PutManifest(t.Context(), digest.FromBytes(body).String(), registrytest.OCIManifest, body, nil))
			err := repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, body, nil)
			told := like != registrytest.ImmutableDockerHub
			require.Equal(t, told, factsOf(t, err).Immutable(), err)
			require.False(t, registry.OutcomeUnknown(err))
		})
	}
	for name, fault := range map[string]registrytest.Fault{
		"a policy":       {Status: 412, Code: "PROJECTPOLICYVIOLATION", Message: "current image without vulnerability scanning cannot be pulled"},
		"a denial":       {Status: 403, Code: "DENIED", Message: "requested access to the resource is denied"},
		"a server error": {Status: 500, Code: "UNKNOWN", Message: "immutable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository := plain(t)
			r.Fail(registrytest.Match{}, fault)
			err := repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, body, nil)
			require.False(t, factsOf(t, err).Immutable())
		})
	}
	r, repository := plain(t)
	r.Fail(registrytest.Match{}, registrytest.Fault{Status: 409, Code: "TAG_IMMUTABLE"})
	_, err := repository.Manifest(t.Context(), "v1")
	require.False(t, factsOf(t, err).Immutable(), "a read is never refused for it")
}

func TestAnswersOfOtherHosts(t *testing.T) {
	t.Parallel()
	status := http.StatusNotFound
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="give"`)
		w.WriteHeader(status)
	}))
	t.Cleanup(storage.Close)
	r, repository := plain(t)
	absent := digest.FromString("absent")
	for _, status = range []int{http.StatusNotFound, http.StatusForbidden, http.StatusUnauthorized} {
		for to, foreign := range map[string]bool{
			storage.URL + "/b": true,
			r.URL() + "/v2/team/app/blobs/" + absent.String(): false,
		} {
			r.Fail(registrytest.Match{}, registrytest.Fault{Status: 307, Header: http.Header{"Location": {to}}})
			_, err := repository.Manifest(t.Context(), "v1")
			require.Equal(t, foreign, factsOf(t, err).Foreign)
			require.Equal(t, !foreign, errors.Is(err, registry.ErrNotFound))
			if foreign {
				requireStatus(t, err, status)
			}
		}
	}

	r.Fail(registrytest.Match{Method: "POST"}, registrytest.Fault{Status: 202, Header: http.Header{"Location": {storage.URL + "/up"}}})
	require.True(t, factsOf(t, repository.PutBlob(t.Context(), []byte("x"))).Foreign, "an upload is sent elsewhere without a redirect")

	_, err := repository.Manifest(t.Context(), "v1")
	require.ErrorIs(t, err, registry.ErrNotFound)
	require.False(t, factsOf(t, err).Foreign)
}

func TestAWriteBeginsWithItsTurnAtTheHost(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	o := machine(t)
	o.HostConcurrency = 1
	repository := repositoryOf(t, newClient(t, o), r, "team/app")
	r.Fail(registrytest.Match{Method: "GET"}, registrytest.Fault{Hang: true})
	reading, stopReading := context.WithCancel(t.Context())
	read := make(chan error, 1)
	go func() {
		_, err := repository.Manifest(reading, "v1")
		read <- err
	}()
	require.Eventually(t, func() bool { return len(r.Requests()) == 1 }, 10*time.Second, time.Millisecond)

	begun := false
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := repository.PutManifest(ctx, "v1", registrytest.OCIManifest, []byte("{}"), func() (func(), error) {
		begun = true
		return func() {}, nil
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, begun)
	require.False(t, registry.OutcomeUnknown(err), "it never left")

	stopReading()
	require.ErrorIs(t, <-read, context.Canceled)
	err = repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), func() (func(), error) {
		return nil, errLost
	})
	require.ErrorIs(t, err, errLost)
	require.False(t, registry.OutcomeUnknown(err))
	require.Zero(t, r.Counts()["PUT manifest"])
	require.NoError(t, repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil), "the turn was given back")
}

func TestEachSendingOfAWriteBeginsAndEnds(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 0))
	repository := repositoryOf(t, newClient(t, withCredentials(t, machine(t), r.Host())), r, "team/app")
	var steps []string
	require.NoError(t, repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), func() (func(), error) {
		steps = append(steps, fmt.Sprintf("begin after %d", len(r.Requests())))
		return func() { steps = append(steps, fmt.Sprintf("end after %d", len(r.Requests()))) }, nil
	}))
	require.Equal(t, []string{
		"begin after 0", "end after 0", // https, which is not spoken
		"begin after 0", "end after 1", // refused
		"begin after 2", "end after 3", // the token is not the write's
	}, steps)
}

func TestAPanicGivesTheTurnBack(t *testing.T) {
	t.Parallel()
	o := machine(t)
	o.HostConcurrency = 1
	o.Transport = roundTrip(func(*http.Request) (*http.Response, error) { panic("no connection") })
	repository, err := newClient(t, o).Repository("registry.example.com/app")
	require.NoError(t, err)
	for range 2 {
		require.PanicsWithValue(t, "no connection", func() { _, _ = repository.Manifest(t.Context(), "v1") })
	}
	require.Panics(t, func() { _ = repository.PutConstant(t.Context(), []byte("{}")) }, "also where it happened in shared work")
}

func TestOutcomeOfAWrite(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault   registrytest.Fault
		unknown bool
		network bool
	}{
		"cut before it was done": {registrytest.Fault{Cut: true}, true, true},
		"cut after it was done":  {registrytest.Fault{Cut: true, Applied: true}, true, true},
		"500":                    {registrytest.Fault{Status: 500}, true, false},
		"502":                    {registrytest.Fault{Status: 502}, true, false},
		"503 with a wait":        {registrytest.Fault{Status: 503, RetryAfter: "3"}, true, false},
		"429":                    {registrytest.Fault{Status: 429, RetryAfter: "60"}, false, false},
		"400":                    {registrytest.Fault{Status: 400}, false, false},
		"401":                    {registrytest.Fault{Status: 401}, false, false},
		"302":                    {registrytest.Fault{Status: 302, Header: http.Header{"Location": {"/x"}}}, false, false},
		"200":                    {registrytest.Fault{Status: 200}, false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository := plain(t)
			r.Fail(registrytest.Match{Method: "PUT"}, test.fault)
			err := repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil)
			requireStatus(t, err, test.fault.Status)
			failed := factsOf(t, err)
			require.Equal(t, test.unknown, registry.OutcomeUnknown(err))
			require.Equal(t, test.network, failed.Network())
			require.Equal(t, map[string]int{"PUT manifest": 1}, r.Counts(), "a write is never sent twice here")
			_, _, stored := r.Get("team/app", "v1")
			require.Equal(t, test.fault.Applied, stored)
		})
	}
}

func TestWriteThatHangsIsOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	r, repository := plain(t)
	r.Fail(registrytest.Match{Method: "PUT"}, registrytest.Fault{Hang: true, Applied: true})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- repository.PutManifest(ctx, "v1", registrytest.OCIManifest, []byte("{}"), nil) }()
	require.Eventually(t, func() bool { _, _, ok := r.Get("team/app", "v1"); return ok }, 10*time.Second, time.Millisecond)
	cancel(errLost)
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, errLost)
	require.True(t, registry.OutcomeUnknown(err))
	require.False(t, factsOf(t, err).Network(), "it was not the network")
}

func TestAHostThatDoesNotAnswerIsKnownForDead(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	o := machine(t)
	o.AnswerTimeout = 50 * time.Millisecond
	repository := repositoryOf(t, newClient(t, o), r, "team/app")
	require.NoError(t, repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil))
	r.Fail(registrytest.Match{Method: "GET"}, registrytest.Fault{Hang: true})
	before := len(r.Requests())
	_, err := repository.Manifest(t.Context(), "v1")
	require.True(t, factsOf(t, err).Network())
	require.Len(t, r.Requests(), before+1, "what had its time is not sent again")
	r.Fail(registrytest.Match{Method: "PUT"}, registrytest.Fault{Hang: true, Applied: true})
	err = repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil)
	require.True(t, factsOf(t, err).Network())
	require.True(t, registry.OutcomeUnknown(err))
}

func TestWriteThatNeverLeftIsOfKnownOutcome(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	secure := registrytest.New(t, registrytest.WithTLS())
	verify := true
	o := machine(t)
	o.TLSVerify = &verify
	for _, host := range []string{closed.Listener.Addr().String(), secure.Host()} {
		repository, err := newClient(t, o).Repository(host + "/team/app")
		require.NoError(t, err)
		err = repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil)
		require.True(t, factsOf(t, err).Network())
		require.False(t, registry.OutcomeUnknown(err))
	}
	require.Empty(t, secure.Requests(), "an unknown CA is not talked to")

	_, repository := plain(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := repository.PutManifest(ctx, "v1", registrytest.OCIManifest, []byte("{}"), nil)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, registry.OutcomeUnknown(err))
}

func TestReadsAreRepeatedAFewTimes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault registrytest.Fault
		gets  int
		fails bool
	}{
		"two cuts":             {registrytest.Fault{Cut: true, Times: 2}, 3, false},
		"a restarting backend": {registrytest.Fault{Status: 502, Times: 1}, 2, false},
		"an outage":            {registrytest.Fault{Status: 503, Times: registrytest.Always}, 3, true},
		"told to wait":         {registrytest.Fault{Status: 503, RetryAfter: "15"}, 1, true},
		"500 is no hiccup":     {registrytest.Fault{Status: 500}, 1, true},
		"throttled":            {registrytest.Fault{Status: 429, RetryAfter: "60"}, 1, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, repository := plain(t)
			r.PushManifest(t, "team/app", "v1", "linux/amd64")
			r.Fail(registrytest.Match{Method: "GET"}, test.fault)
			_, err := repository.Manifest(t.Context(), "v1")
			require.Equal(t, test.fails, err != nil, err)
			require.False(t, registry.OutcomeUnknown(err))
			require.Len(t, r.Requests(), test.gets)
		})
	}
}

func TestAnswerThatEndsTooSoon(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("{"))
	}))
	t.Cleanup(server.Close)
	_, err := repositoryAt(t, server, machine(t)).Manifest(t.Context(), "v1")
	require.True(t, factsOf(t, err).Network())
	require.False(t, registry.OutcomeUnknown(err))
}

func TestSecretsOfRedirectsStayOutOfErrors(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	r, repository := plain(t)
	r.Fail(registrytest.Match{Kind: registrytest.KindBlob}, registrytest.Fault{
		Status: 307, Header: http.Header{"Location": {"http://user:pass@" + listener.Addr().String() + "/b?X-Amz-Signature=hidden"}},
	})
	_, err = repository.Blob(t.Context(), digest.FromString("x"), 10)
	require.True(t, factsOf(t, err).Network())
	require.NotContains(t, err.Error(), "hidden")
	require.NotContains(t, err.Error(), "pass")
}
