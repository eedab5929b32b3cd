package relay_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/bench/relay"
)

// echo answers with what it is sent.
func echo(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Location", "http://"+r.Host+"/next")
		if strings.HasSuffix(r.URL.Path, ".sig") {
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	return server
}

func start(t *testing.T, target string) *relay.Relay {
	t.Helper()
	r, err := relay.Start(t.Context(), target)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func send(t *testing.T, method, url string, body io.Reader) (status int, location, text string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // only read
	read, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, answer.Header.Get("Location"), string(read)
}

func TestRequestsPassAndAreCounted(t *testing.T) {
	t.Parallel()
	r := start(t, echo(t).Listener.Addr().String())
	base := "http://" + r.Host()
	send(t, http.MethodGet, base+"/v2/", nil)
	require.True(t, r.Tally().First.IsZero(), "a ping is not about an image")
	for range 2 {
		status, location, body := send(t, http.MethodPut, base+"/v2/a/manifests/sha256-00.sig", strings.NewReader("manifest"))
		require.Equal(t, http.StatusCreated, status)
		require.Equal(t, "manifest", body)
		require.Equal(t, base+"/next", location, "the way leads back through the relay")
	}
	large := strings.Repeat("x", 1<<20)
	_, _, body := send(t, http.MethodPut, base+"/v2/a/blobs/uploads/1?digest=d", strings.NewReader(large))
	require.Equal(t, large, body)
	_, _, body = send(t, http.MethodPost, base+"/v2/a/blobs/uploads/", io.MultiReader(bytes.NewReader([]byte("of no ")), strings.NewReader("length")))
	require.Equal(t, "of no length", body)

	seen := r.Tally()
	require.Equal(t, 5, seen.Requests)
	require.Equal(t, 1, seen.Signed, "a tag that is written twice is one")
	require.Equal(t, map[string]int{"GET ping": 1, "PUT manifest": 2, "PUT upload": 1, "POST upload": 1}, seen.Kinds)
	require.Equal(t, map[int]int{200: 3, 201: 2}, seen.Statuses)
	require.Positive(t, seen.Span())

	r.Reset()
	require.Zero(t, r.Tally())
}

func TestEachRequestIsHeldBack(t *testing.T) {
	t.Parallel()
	r := start(t, echo(t).Listener.Addr().String())
	const delay = 20 * time.Millisecond
	r.Delay(delay)
	for range 3 {
		send(t, http.MethodGet, "http://"+r.Host()+"/v2/a/manifests/v1", nil)
	}
	require.GreaterOrEqual(t, r.Tally().Span(), 3*delay)
}

// Clients that may use plain HTTP try TLS first, and wait for an answer to that.
func TestTLSIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t, echo(t).Listener.Addr().String())
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", r.Host())
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // only read
	_, err = conn.Write([]byte{0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5})
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	if err == nil { // or the hanging up overtook the answer
		require.Contains(t, string(answer), "400 Bad Request")
	}
	require.Zero(t, r.Tally().Requests)
}
