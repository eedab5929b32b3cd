package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	opToken = "fetch token"

	maxTokenBytes = 128 << 10

	// What the token specification gives an answer that does not say.
	defaultTokenLife = 60 * time.Second
)

// tokenTransport reads the answers of token servers before the authentication
// client does: for the token's life, and for the facts of a refusal (its
// Retry-After among them), neither of which that client keeps.
type tokenTransport struct {
	next http.RoundTripper
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, ok := tokenAnswerOf(req.Context())
	if !ok {
		return t.next.RoundTrip(req)
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode <= 399 {
		return resp, nil
	}
	defer closeBody(resp.Body)
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBytes))
	if err != nil {
		return nil, fmt.Errorf("read the token: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, newTokenError(req, resp, body)
	}
	answer.life, err = tokenLife(body)
	if err != nil {
		return nil, &Error{Op: opToken, Method: req.Method, URL: redactURL(req.URL), Status: resp.StatusCode, Err: err}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// newTokenError keeps the statuses that mean the same everywhere. Another one
// is not about the image: a token server's 404 must never read as a tag that
// is not there.
func newTokenError(req *http.Request, resp *http.Response, body []byte) *Error {
	e := newStatusError(opToken, req.Method, req.URL, resp.StatusCode, resp.Header, body)
	e.outcomeUnknown = false // a token is no write, whatever the method
	switch {
	case e.Status == http.StatusForbidden, e.Status == http.StatusTooManyRequests, e.Status >= http.StatusInternalServerError:
	default:
		e.Status = http.StatusUnauthorized
		e.Err = fmt.Errorf("token server answered %d", resp.StatusCode)
	}
	return e
}

func tokenLife(body []byte) (time.Duration, error) {
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, errors.New("the answer is not a token")
	}
	if answer.Token == "" && answer.AccessToken == "" {
		return 0, errors.New("the answer has no token")
	}
	const longest = 365 * 24 * time.Hour
	if answer.ExpiresIn <= 0 {
		return defaultTokenLife, nil
	}
	return time.Duration(min(answer.ExpiresIn, longest.Seconds()) * float64(time.Second)), nil
}
