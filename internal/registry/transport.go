package registry

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"
)

const (
	maxRedirects = 10

	// pingAfter is how long an HTTP/2 connection may say nothing before it is
	// asked whether it is there, and how long it may take to answer.
	pingAfter = 15 * time.Second
)

// newTransport is the one place that says in which order a request passes the
// layers. Above them all is the authentication client, so that a token request
// passes them too.
//
//	repeat   reads only; each repeat takes a turn of its own
//	token    what the authentication client does not keep of a token's answer
//	throttle how many requests a host gets, and what it gets after a pause
//	observe  what metrics and traces tell of each request
//	send     whether a write may have reached the server; TLS; the connection
func newTransport(send http.RoundTripper, hosts *throttles, seen *observer, unsure func() bool) http.RoundTripper {
	var t http.RoundTripper = &observeTransport{observer: seen, next: send}
	t = &throttleTransport{hosts: hosts, observer: seen, next: t}
	t = &tokenTransport{next: t}
	return &repeatTransport{next: t, unsure: unsure}
}

// sendTransport is the last layer before the network.
type sendTransport struct {
	addr string // of the registry

	// own is for the registry itself and its token server, others for the
	// hosts that it redirects to: those get no client certificate.
	own, others http.RoundTripper

	// foreign is set when own is not ours, and may not tell when it has a
	// connection.
	foreign bool
}

func newSendTransport(addr string, settings *tls.Config, o Options) *sendTransport {
	own := newConnections(settings, o)
	others := own
	if len(settings.Certificates) > 0 {
		anonymous := settings.Clone()
		anonymous.Certificates = nil
		others = newConnections(anonymous, o)
	}
	return &sendTransport{addr: addr, own: own, others: others}
}

// newConnections keeps as many idle connections as there can be requests at
// once. The number of open ones is bounded by the slots, which say so when
// somebody waits.
func newConnections(settings *tls.Config, o Options) *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     settings,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		// One connection carries all of a host's requests there. Should it die in
		// silence, a ping finds that out, and not each request for itself.
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
		MaxIdleConnsPerHost: o.HostConcurrency,
		// A registry that takes connections and says nothing is known for dead
		// long before the images that wait for it are out of time.
		ResponseHeaderTimeout:  o.AnswerTimeout,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // digests are of the bytes as stored
	}
}

func (t *sendTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	_, forToken := tokenAnswerOf(req.Context())
	next := t.others
	if forToken || req.URL.Host == t.addr {
		next = t.own
	}
	if forToken || !isWrite(req.Method) {
		return next.RoundTrip(req)
	}
	current := callOf(req.Context())
	if t.foreign {
		current.written.Store(true)
	}
	resp, err := next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { current.written.Store(true) },
	})))
	if err == nil {
		current.written.Store(false)
	}
	return resp, err
}

func (t *sendTransport) closeIdle() {
	for _, next := range []http.RoundTripper{t.own, t.others} {
		if closer, ok := next.(interface{ CloseIdleConnections() }); ok {
			closer.CloseIdleConnections()
		}
	}
}

// RedirectError is a redirect that was not followed.
type RedirectError struct {
	URL    string // redacted
	Reason string
}

func (e *RedirectError) Error() string {
	return fmt.Sprintf("redirect to %s: %s", e.URL, e.Reason)
}

// checkRedirect is the policy for every hop. The authentication client removes
// the credentials when the host changes.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case req.Method != first.Method:
		// A 301 to 303 makes a write a GET, whose success would mean nothing.
		return http.ErrUseLastResponse
	case len(via) >= maxRedirects:
		return &RedirectError{URL: redactURL(req.URL), Reason: fmt.Sprintf("more than %d redirects", maxRedirects)}
	case leavesTLS(first.URL, req.URL):
		return &RedirectError{URL: redactURL(req.URL), Reason: "plain http from an https registry"}
	}
	return nil
}

func leavesTLS(from, to *url.URL) bool {
	return from.Scheme == "https" && to.Scheme != "https"
}

// wrongScheme reports that err is how a server that speaks plain http answers
// https, or how a host does that has no https at all.
func wrongScheme(err error) bool { return speaksPlainHTTP(err) || isRefused(err) }

// speaksPlainHTTP reports that err is how a server that speaks plain http answers https.
func speaksPlainHTTP(err error) bool {
	var notTLS tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &notTLS)
}
