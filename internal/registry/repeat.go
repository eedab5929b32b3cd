package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

// maxRepeats is how often a read that failed is sent again, without anyone
// above knowing: enough for a connection that was closed under it or a proxy
// that changes its backend, not for an outage, which is the queue's business.
const maxRepeats = 2

// repeatTransport sends reads again. A write is repeated as a whole operation
// by those who know what it was for.
type repeatTransport struct {
	next http.RoundTripper

	// unsure reports that it is not known yet whether https is spoken; then a
	// refused connection is an answer to that.
	unsure func() bool
}

func (t *repeatTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if isWrite(req.Method) {
		return t.next.RoundTrip(req)
	}
	for repeat := 0; ; repeat++ {
		resp, err := t.next.RoundTrip(req)
		if repeat == maxRepeats || !t.worthRepeating(req.Context(), resp, err) {
			return resp, err
		}
		if resp != nil {
			closeBody(resp.Body)
		}
		if !waitToRepeat(req.Context(), repeat) {
			return nil, context.Cause(req.Context())
		}
	}
}

func (t *repeatTransport) worthRepeating(ctx context.Context, resp *http.Response, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		return t.connectionFailed(err)
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return resp.Header.Get("Retry-After") == ""
	}
	return false
}

func (t *repeatTransport) connectionFailed(err error) bool {
	var answered *Error
	var throttled *ThrottledError
	var certificate *tls.CertificateVerificationError
	var slow interface{ Timeout() bool }
	switch {
	case errors.As(err, &answered), errors.As(err, &throttled), errors.As(err, &certificate):
		return false
	case errors.As(err, &slow) && slow.Timeout():
		return false // it has had its time
	case wrongScheme(err):
		return isRefused(err) && !t.unsure()
	}
	return true
}

// waitToRepeat waits 100 ms, then 400 ms, give or take a third so that those who
// failed together do not come back together.
func waitToRepeat(ctx context.Context, repeat int) bool {
	wait := 100 * time.Millisecond << (2 * repeat)
	wait += time.Duration((rand.Float64() - 0.5) * 2 / 3 * float64(wait)) //nolint:gosec // spreads load, hides nothing
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
