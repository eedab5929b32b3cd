package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2/registry/remote/auth"
)

func TestRedactURL(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"https://u:p@h/v2/a/blobs/uploads/1?_state=s&digest=sha256:0#f": "https://h/v2/a/blobs/uploads/1?_state=REDACTED&digest=sha256%3A0",
		"https://h/token?service=s&scope=repository:a:pull&account=me":  "https://h/token?account=REDACTED&scope=repository%3Aa%3Apull&service=s",
		"https://h/b?X-Amz-Signature=x&Digest=y":                        "https://h/b?Digest=REDACTED&X-Amz-Signature=REDACTED",
		"https://h/%2f/b":                                               "https://h/%2f/b",
	}
	for given, want := range tests {
		u, err := url.Parse(given)
		require.NoError(t, err)
		require.Equal(t, want, redactURL(u))
	}
}

func TestRedactText(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		`Get "https://u:p@h/b?sig=x": EOF`:      `Get "https://h/b?REDACTED": EOF`,
		"see http://h/b and HTTPS://h/c?sig=x.": "see http://h/b and HTTPS://h/c?REDACTED",
		"what? nothing":                         "what? nothing",
	}
	for given, want := range tests {
		require.Equal(t, want, redactText(given))
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		header http.Header
		want   time.Duration
	}{
		"none":        {http.Header{}, 0},
		"seconds":     {http.Header{"Retry-After": {"120"}}, 2 * time.Minute},
		"negative":    {http.Header{"Retry-After": {"-5"}}, 0},
		"huge":        {http.Header{"Retry-After": {"99999999999"}}, (1<<31 - 1) * time.Second},
		"nonsense":    {http.Header{"Retry-After": {"soon"}}, 0},
		"date":        {http.Header{"Retry-After": {"Fri, 01 May 2026 12:00:30 GMT"}}, 30 * time.Second},
		"date gone":   {http.Header{"Retry-After": {"Fri, 01 May 2026 11:00:00 GMT"}}, 0},
		"other clock": {http.Header{"Retry-After": {"Fri, 01 May 2026 10:00:30 GMT"}, "Date": {"Fri, 01 May 2026 10:00:00 GMT"}}, 30 * time.Second},
	}
	for name, test := range tests {
		require.Equal(t, test.want, parseRetryAfter(test.header, now), name)
	}
}

func TestRepeatsAreFewAndEndWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		cut := errors.New("connection reset")
		transport := &repeatTransport{
			next:   roundTripFunc(func(*http.Request) (*http.Response, error) { sent++; return nil, cut }),
			unsure: func() bool { return false },
		}
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		began := time.Now()
		_, err := transport.RoundTrip(req) //nolint:bodyclose // there is none
		require.ErrorIs(t, err, cut)
		require.Equal(t, 3, sent)
		require.Less(t, time.Since(began), time.Second)

		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		sent = 0
		_, err = transport.RoundTrip(req.WithContext(ctx)) //nolint:bodyclose // there is none
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, sent)
	})
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestFlightEndsWithItsLastWaiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		var ended error
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		_, err := f.do(ctx, "key", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			ended = ctx.Err()
			return "", ended
		})
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, f.close(time.Second), "nothing is left behind")
		require.ErrorIs(t, ended, context.Canceled)

		_, err = f.do(t.Context(), "key", nil)
		require.ErrorIs(t, err, errClosed)
	})
}

func TestFlightIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		_, err := f.do(t.Context(), "key", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		hung := make(chan struct{})
		go func() {
			_, _ = f.do(t.Context(), "hung", func(context.Context) (string, error) { <-hung; return "", nil })
		}()
		synctest.Wait()
		require.False(t, f.close(time.Second), "closing does not hang with it")
		close(hung)
	})
}

func TestAPanicInAFlightIsItsWaiters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		release := make(chan struct{})
		panicked := make(chan any, 3)
		for range cap(panicked) {
			go func() {
				defer func() { panicked <- recover() }()
				_, _ = f.do(t.Context(), "key", func(context.Context) (string, error) {
					<-release
					panic("out of luck")
				})
			}()
		}
		synctest.Wait()
		close(release)
		for range cap(panicked) {
			value := <-panicked
			require.Contains(t, value, "out of luck")
			require.Contains(t, value, "internal_test.go", "where it was")
		}

		result, err := f.do(t.Context(), "key", func(context.Context) (string, error) { return "next", nil })
		require.NoError(t, err)
		require.Equal(t, "next", result, "it is forgotten")
		require.True(t, f.close(time.Second))
	})
}

func TestTokensThatHaveExpiredAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := newFlights()
		c := newTokenCache("h", shared, nil)
		const repositories = 10_000
		most := 0
		for i := range repositories {
			ctx := withCall(t.Context(), &call{credentials: fmt.Sprint("h/", i)})
			_, err := c.Set(ctx, "h", auth.SchemeBearer, "pull", func(ctx context.Context) (string, error) {
				answer, _ := tokenAnswerOf(ctx)
				answer.life = time.Minute
				return "granted", nil
			})
			require.NoError(t, err)
			most = max(most, len(c.tokens))
			time.Sleep(time.Second) // of the bubble
		}
		require.LessOrEqual(t, most, 5*60, "those of a minute, each under two scopes, and about as many that wait to be swept")
		_, err := c.GetToken(withCall(t.Context(), &call{credentials: fmt.Sprint("h/", repositories-1)}), "h", auth.SchemeBearer, "pull")
		require.NoError(t, err, "what is good stays")
		require.True(t, shared.close(time.Second))
	})
}

func TestConstantsAreBounded(t *testing.T) {
	t.Parallel()
	var c constants
	for i := range 2 * maxConstants {
		c.add(fmt.Sprint("h/", i), "sha256:0")
		c.add(fmt.Sprint("h/", i), "sha256:0")
	}
	require.Len(t, c.held, maxConstants)
	require.True(t, c.has(fmt.Sprint("h/", 2*maxConstants-1), "sha256:0"))
}
