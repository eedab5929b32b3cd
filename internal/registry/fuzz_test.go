package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
)

func FuzzChallenge(f *testing.F) {
	for _, header := range []string{
		"",
		"Basic",
		`Basic realm="registry", Bearer realm="https://auth.example.com"`,
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`,
		"bearer \trealm = https , service=\t\"a \\\"quoted\\\" one\",error=\"invalid_token\"",
		`Bearer realm="unfinished`,
		`Bearer =,==,"",`,
		`Bearer realm="` + strings.Repeat("x", 2*maxChallengeBytes) + `"`,
		"Bearer realm=\"\xff\u2028\"",
	} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		transport := &challengeTransport{
			owns: func(*url.URL) bool { return true },
			next: roundTripFunc(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {header}}, Body: http.NoBody}, nil
			}),
		}
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.example.com/v2/", nil)
		_, err := transport.RoundTrip(req) //nolint:bodyclose // there is none
		require.NoError(t, err)
		learned := transport.known.Load()
		if learned == nil {
			return
		}
		require.LessOrEqual(t, len(learned.realm)+len(learned.service), 3*maxChallengeBytes)
		refusal, err := transport.RoundTrip(req) //nolint:bodyclose // there is none
		require.NoError(t, err)
		said := refusal.Header.Get("Www-Authenticate")
		require.NotContains(t, said, "\n")
		if len(said) <= maxChallengeBytes {
			scheme, parameters := parseChallenge(said)
			require.Equal(t, "Bearer", scheme)
			require.Equal(t, learned.realm, parameters["realm"])
			require.Equal(t, learned.service, parameters["service"])
			require.Empty(t, parameters["scope"])
		}
	})
}

func FuzzDiagnostics(f *testing.F) {
	for _, seed := range [][2]string{
		{"application/json", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":"unknown tag=v1"}]}`},
		{"application/json", `{"errors":[{"code":12,"message":["a"],"detail":{"Tag":"v1"}},{},null]}`},
		{"application/json", `{"errors":[` + strings.Repeat(`{"code":"A"},`, 20) + `{}]}`},
		{"application/json", `{"message":"Only one auth mechanism allowed"}`},
		{"text/plain; charset=utf-8", "404 page not found, see http://h/?a https://u:p@h/?sig=x\n\x00"},
		{"text/html", "<html>"},
		{"", strings.Repeat("[", 1<<14)},
	} {
		f.Add(seed[0], []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		found := parseDiagnostics(contentType, body)
		require.LessOrEqual(t, len(found), maxDiagnostics)
		for _, d := range found {
			require.LessOrEqual(t, len(d.String()), 3*maxMessageBytes)
			require.NotContains(t, d.String(), "\n")
		}
		e := newStatusError("op", http.MethodPut, &url.URL{Host: "h"}, http.StatusBadRequest, http.Header{"Content-Type": {contentType}}, body)
		require.NotEmpty(t, e.Error())
		_ = e.Immutable()
	})
}

func FuzzNextLink(f *testing.F) {
	for _, header := range []string{
		"",
		`</v2/app/referrers/sha256:00?n=10&last=x>; rel="next"`,
		`<https://h/a,b;c?rel="next">; rel=prev , <?n=2>;title="a<b";rel = "NEXT"`,
		`<a>; rel="next prev"`,
		"<", ">", "<>;rel=next", "<a>;rel=next;<b", `<a>; rel="<`,
	} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		target, ok := nextLink([]string{header})
		if !ok {
			return
		}
		require.Contains(t, header, "<"+target+">")
		next, err := nextPage(&answer{header: http.Header{"Link": {header}}, url: &url.URL{Scheme: "https", Host: "h", Path: "/v2/"}})
		if err == nil {
			require.Nil(t, next.User)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "")
	f.Add("-1", "Fri, 01 May 2026 10:00:00 GMT")
	f.Add(" 99999999999999999999 ", "soon")
	f.Add("Fri, 01 May 2026 12:00:30 GMT", "Fri, 01 May 2026 10:00:00 GMT")
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT")
	f.Add("1e9", "0")
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value, date string) {
		wait := parseRetryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, now)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, 70*365*24*time.Hour)
	})
}

func FuzzManifestType(f *testing.F) {
	f.Add("application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2}`))
	f.Add("application/json; charset=utf-8", []byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add("", []byte(`{"schemaVersion":1,"signatures":[{}]}`))
	f.Add("text/plain", []byte(strings.Repeat(`{"config":`, 100)))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		require.LessOrEqual(t, len(manifestType(contentType, body)), 4*(len(contentType)+len(body))+100)
	})
}

func FuzzTokenLife(f *testing.F) {
	f.Add([]byte(`{"token":"t","expires_in":300,"issued_at":"2026-05-01T12:00:00Z"}`))
	f.Add([]byte(`{"access_token":"t","expires_in":1e300}`))
	f.Add([]byte(`{"access_token":"t","expires_in":-1}`))
	f.Add([]byte(`{"token":""}`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		life, err := tokenLife(body)
		if err == nil {
			require.GreaterOrEqual(t, life, time.Duration(0))
			require.LessOrEqual(t, life, 366*24*time.Hour)
		}
	})
}

// printable is what all texts of others pass.
func FuzzPrintable(f *testing.F) {
	f.Add("slow\ndown, see https://u:p@r/x?sig=hidden")
	f.Add("HTTP://?a http://?b\u2028\x00\xff")
	f.Fuzz(func(t *testing.T, text string) {
		shown := printable(text, maxMessageBytes)
		require.LessOrEqual(t, len(shown), 2*maxMessageBytes)
		require.False(t, strings.ContainsFunc(shown, func(r rune) bool { return r < ' ' && unicode.IsControl(r) }))
	})
}
