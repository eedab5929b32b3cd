package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// request is one request of an operation, before it is known by which scheme
// and with what credentials it goes.
type request struct {
	op     string // what is being done, for errors
	method string
	path   string // from the host's root
	query  url.Values
	at     *url.URL // instead of path: where the registry told us to go
	body   []byte
	limit  int64 // of the answer's body; 0: it is of no interest
	begin  BeginWrite

	accept, contentType string

	credentials string // whose
	scope       string // empty: none
	again       bool   // it was sent by the wrong scheme before
}

// answer is a success, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	url    *url.URL // who gave it, for a relative Location
}

// do sends q and reads its answer. The statuses that are a success are named by
// each caller; everything else is an *Error.
func (e *endpoint) do(ctx context.Context, q request, success ...int) (*answer, error) {
	current := &call{credentials: q.credentials, scopes: q.scope, begin: q.begin}
	ctx = withCall(ctx, current)
	if q.scope != "" {
		ctx = auth.WithScopes(ctx, q.scope)
	}
	resp, asked, err := e.send(ctx, q)
	if err != nil {
		return nil, e.failure(ctx, q, asked, err)
	}
	defer closeBody(resp.Body)
	if resp.Request != nil {
		asked = resp.Request.URL // after redirects
		e.redirected(asked)
	}
	if !slices.Contains(success, resp.StatusCode) {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
		if !q.again && q.at == nil && e.wantsTLS(asked, resp, body) {
			q.again = true
			closeBody(resp.Body) // and give its turn back
			return e.do(ctx, q, success...)
		}
		failed := newStatusError(q.op, q.method, asked, resp.StatusCode, resp.Header, body)
		failed.Foreign = !e.isHost(asked)
		return nil, failed
	}
	a := &answer{status: resp.StatusCode, header: resp.Header, url: asked}
	if q.limit == 0 {
		return a, nil
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, q.limit+1))
	if err != nil {
		return nil, newNoAnswer(ctx, q, asked, fmt.Errorf("read the answer: %w", err))
	}
	if int64(len(a.body)) > q.limit {
		return nil, &TooLargeError{Subject: q.op, Limit: q.limit}
	}
	return a, nil
}

// send tries the schemes that the host may speak. Only a request that cannot
// have reached anybody is sent again by the next.
func (e *endpoint) send(ctx context.Context, q request) (resp *http.Response, asked *url.URL, err error) {
	if q.at != nil {
		resp, err = e.sendTo(ctx, q, q.at)
		return resp, q.at, err
	}
	for _, scheme := range e.schemes() {
		asked = &url.URL{Scheme: scheme, Host: e.addr, Path: q.path, RawQuery: q.query.Encode()}
		resp, err = e.sendTo(ctx, q, asked)
		if err == nil {
			e.answered(scheme)
			return resp, asked, nil
		}
		if !q.again && e.refutes(scheme, err) {
			q.again = true
			return e.send(ctx, q)
		}
		if !wrongScheme(err) {
			break
		}
	}
	return nil, asked, err
}

// sendTo sends with credentials to the registry itself, and without to others.
func (e *endpoint) sendTo(ctx context.Context, q request, to *url.URL) (*http.Response, error) {
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body) // which http.NewRequest can rewind
	}
	req, err := http.NewRequestWithContext(ctx, q.method, "", body)
	if err != nil {
		return nil, err
	}
	req.URL, req.Host = to, to.Host
	if q.accept != "" {
		req.Header.Set("Accept", q.accept)
	}
	if q.contentType != "" {
		req.Header.Set("Content-Type", q.contentType)
	}
	if !e.owns(to) {
		req.Header.Set("User-Agent", e.userAgent)
		return e.anonymous.Do(req)
	}
	resp, err := e.auth.Do(req)
	if !e.challenges.mistaken(ctx, resp, err) {
		return resp, err
	}
	if resp != nil {
		closeBody(resp.Body)
	}
	return e.sendTo(ctx, q, to)
}

// failure says what is known when there is no answer to q.
func (e *endpoint) failure(ctx context.Context, q request, asked *url.URL, err error) error {
	var tokenError *Error
	var credentials *CredentialError
	var throttled *ThrottledError
	var sending *url.Error
	switch {
	case ctx.Err() != nil || errors.Is(err, errClosed):
		return newNoAnswer(ctx, q, asked, err)
	case errors.As(err, &tokenError):
		return fmt.Errorf("%s: %w", q.op, tokenError)
	case errors.As(err, &throttled):
		return fmt.Errorf("%s: %w", q.op, throttled)
	case errors.As(err, &credentials):
		return fmt.Errorf("%s: %w", q.op, credentials)
	case errors.As(err, &sending) && sending.Op != "parse":
		return newNoAnswer(ctx, q, asked, sending.Err)
	}
	// What is left is the authentication client's own, and follows a 401: no
	// password, a realm that is not to be trusted. Around the reason it puts
	// method and URL, the latter unredacted.
	reason := err
	if inner := errors.Unwrap(err); inner != nil {
		reason = inner
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		reason = errors.New("no credentials are stored for it: log in with podman or docker, or name the file that has them")
	}
	return &Error{Op: q.op, Method: q.method, URL: redactURL(asked), Status: http.StatusUnauthorized, Err: reason}
}

// newNoAnswer is the error of a request that got no answer, or not all of it.
func newNoAnswer(ctx context.Context, q request, asked *url.URL, reason error) *Error {
	var certificate *tls.CertificateVerificationError
	if errors.As(reason, &certificate) {
		reason = fmt.Errorf("%w: put the CA's certificate where podman looks, or name its directory (cert-dir); tls-verify=false trusts anybody", reason)
	}
	if speaksPlainHTTP(reason) {
		reason = fmt.Errorf("%w: it speaks plain http, which only registries.conf (insecure) or tls-verify=false allows", reason)
	}
	e := &Error{Op: q.op, Method: q.method, URL: redactURL(asked), Err: reason}
	e.outcomeUnknown = callOf(ctx).written.Load()
	if ctx.Err() != nil {
		e.gaveUp = true
		e.Err = gaveUp(ctx)
	}
	return e
}

// closeBody is the one place where bodies end. What is left of one is read by
// the layer below, which knows how much is worth it.
func closeBody(body io.Closer) { _ = body.Close() }
