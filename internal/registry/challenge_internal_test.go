package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChallengeIsOfTheSchemeThatAskedForIt(t *testing.T) {
	t.Parallel()
	sent := 0
	answer := http.Header{"Www-Authenticate": {`Bearer realm="http://h/token"`}}
	transport := &challengeTransport{
		owns: func(u *url.URL) bool { return u.Hostname() == "h" },
		next: roundTripFunc(func(*http.Request) (*http.Response, error) {
			sent++
			return &http.Response{StatusCode: http.StatusUnauthorized, Header: answer, Body: http.NoBody}, nil
		}),
	}
	ask := func(to string, change func(req *http.Request)) (reached bool) {
		before := sent
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, to, nil)
		change(req)
		resp, err := transport.RoundTrip(req) //nolint:bodyclose // there is none
		require.NoError(t, err)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
		return sent > before
	}
	unchanged := func(*http.Request) {}
	require.True(t, ask("http://other/v2/", unchanged))
	require.True(t, ask("http://h/v2/", unchanged), "what another host wants is not learned")
	require.False(t, ask("http://h/v2/", unchanged))
	require.True(t, ask("http://other/v2/", unchanged))
	require.True(t, ask("http://h/v2/", func(req *http.Request) { req.Header.Set("Authorization", "Bearer x") }))
	require.True(t, ask("http://h/v2/", func(req *http.Request) { req.Response = &http.Response{} }), "redirected")
	require.True(t, ask("http://h/token", func(req *http.Request) {
		*req = *req.WithContext(withTokenAnswer(req.Context(), &tokenAnswer{}))
	}))
	require.True(t, ask("https://h/v2/", unchanged), "whether https is spoken is not known")

	answer.Set("Www-Authenticate", `Basic realm="r"`)
	require.True(t, ask("http://h/v2/", func(req *http.Request) { req.Header.Set("Authorization", "Bearer x") }))
	require.True(t, ask("http://h/v2/", unchanged), "it is forgotten when something else is wanted")
}
