package registry

import (
	"bytes"
	"net/http"
	"net/url"

	"go.uber.org/zap"
)

// A host that need not have a certificate may speak plain http as well. Which
// it is, is found out by the first request and remembered, until an answer
// contradicts it.

// unsure reports that http may be tried after https.
func (e *endpoint) unsure() bool { return e.insecure && e.scheme.Load() == nil }

// schemes are those to try, in order.
func (e *endpoint) schemes() []string {
	if known := e.scheme.Load(); known != nil {
		return []string{*known}
	}
	if e.insecure {
		return []string{"https", "http"}
	}
	return []string{"https"}
}

// answered remembers the scheme that got an answer.
func (e *endpoint) answered(scheme string) {
	if !e.unsure() {
		return
	}
	if spoken := scheme; e.scheme.CompareAndSwap(nil, &spoken) && spoken == "http" {
		e.log.Warn("registry speaks plain http: what is sent to it, credentials too, can be read on the way",
			zap.String("registry", e.addr))
	}
}

// refutes reports that err shows that a host which was known to speak https
// does not, which is forgotten then. That nobody listens any more shows
// nothing: whoever took it for an answer would send in plain what was not.
func (e *endpoint) refutes(scheme string, err error) bool {
	return scheme == "https" && speaksPlainHTTP(err) && e.forgetScheme(scheme)
}

// wantsTLS reports that an answer by plain http is of a host that has come to
// speak https, which is to be tried first again: it leads to itself by https,
// or is what a server of https says to those who do not speak it.
func (e *endpoint) wantsTLS(asked *url.URL, resp *http.Response, body []byte) bool {
	if !e.insecure || !e.isHost(asked) || asked.Scheme != "http" {
		return false
	}
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode <= 399:
		to, err := asked.Parse(resp.Header.Get("Location"))
		if err != nil || to.Scheme != "https" || to.Hostname() != asked.Hostname() {
			return false
		}
	case resp.StatusCode != http.StatusBadRequest || !bytes.Contains(body, []byte(" HTTPS ")):
		return false
	}
	return e.forgetScheme("http")
}

// redirected notes where a read was led to: a host that leads from http to
// https is to be asked by that.
func (e *endpoint) redirected(to *url.URL) {
	if e.insecure && to.Scheme == "https" && e.isHost(to) {
		e.forgetScheme("http")
	}
}

func (e *endpoint) forgetScheme(scheme string) bool {
	known := e.scheme.Load()
	return e.insecure && known != nil && *known == scheme && e.scheme.CompareAndSwap(known, nil)
}
