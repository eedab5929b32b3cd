package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxChallengeBytes is more than any that means well.
const maxChallengeBytes = 4 << 10

// challenge is how a registry asks for a token, without the scope: that is the
// repository's, all else the registry's.
type challenge struct {
	scheme         string // by which the registry was reached: http or https
	realm, service string
}

// challengeTransport spares the refused request that each repository would
// begin with. The authentication client looks for a token only when it is
// refused, so a request without one is refused here, in the words the registry
// refused an earlier one with, and never sent.
//
// It is the authentication client's own layer, above those of newTransport.
type challengeTransport struct {
	next http.RoundTripper
	owns func(*url.URL) bool // is the registry's own

	known atomic.Pointer[challenge]

	// wayward is set when the registry wanted other scopes than those of the
	// repository, which only it knows: then it has to be asked each time.
	wayward atomic.Bool
}

func (t *challengeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	current := callOf(req.Context())
	if _, forToken := tokenAnswerOf(req.Context()); forToken || !t.owns(req.URL) {
		return t.next.RoundTrip(req)
	}
	if refusal := current.refusal; refusal != "" {
		current.refusal = ""
		return refuse(req, refusal), nil
	}
	if known := t.known.Load(); known != nil && known.scheme == req.URL.Scheme && t.mayRefuse(req, current) {
		current.foreseen = known
		return refuse(req, known.header()), nil
	}
	resp, err := t.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		t.learn(req, resp)
	}
	return resp, err
}

// mayRefuse leaves alone what has a token, what was redirected (the token is
// taken from it on purpose), and what is not to be refused again.
func (t *challengeTransport) mayRefuse(req *http.Request, current *call) bool {
	return req.Header.Get("Authorization") == "" && req.Response == nil && current.foreseen == nil && !t.wayward.Load()
}

// mistaken reports that what followed a refusal of our own may be for want of
// the registry's own words, and sees to it that those come next.
func (t *challengeTransport) mistaken(ctx context.Context, resp *http.Response, err error) bool {
	current := callOf(ctx)
	foreseen := current.foreseen
	switch {
	case foreseen == nil || current.corrected || ctx.Err() != nil:
		return false
	case err != nil:
		if !isThrottled(err) {
			t.known.CompareAndSwap(foreseen, nil)
		}
		current.corrected = isTokenRefusal(err)
		return current.corrected
	case resp.StatusCode != http.StatusUnauthorized || resp.Request == nil || !t.owns(resp.Request.URL):
		return false
	}
	header := resp.Header.Get("Www-Authenticate")
	scheme, parameters := parseChallenge(header)
	switch bearer := strings.EqualFold(scheme, "Bearer"); {
	case bearer && wantsOtherScopes(current, parameters["scope"]):
		if current.scopes != "" {
			t.wayward.Store(true)
		}
	case bearer && parameters["realm"] == foreseen.realm && parameters["service"] == foreseen.service:
		return false // the token was what it asks for, and is refused all the same
	case !bearer && !strings.EqualFold(scheme, "Basic"):
		return false
	}
	current.corrected, current.refusal = true, header
	return true
}

// wantsOtherScopes reports scopes that were not asked for up front.
func wantsOtherScopes(current *call, scopes string) bool {
	all := append(strings.Fields(current.scopes), strings.Fields(scopes)...)
	return strings.Join(auth.CleanScopes(all), " ") != current.scopes
}

// isTokenRefusal tells a token server that says no, or is none, from one that
// cannot be reached or has too much to do.
func isTokenRefusal(err error) bool {
	var e *Error
	return errors.As(err, &e) && !isThrottled(err) && e.Status != 0 && e.Status < http.StatusInternalServerError
}

func isThrottled(err error) bool {
	var e *Error
	var throttled *ThrottledError
	return errors.As(err, &throttled) || errors.As(err, &e) && e.Status == http.StatusTooManyRequests
}

// learn keeps what the registry itself has said last.
func (t *challengeTransport) learn(req *http.Request, resp *http.Response) {
	scheme, parameters := parseChallenge(resp.Header.Get("Www-Authenticate"))
	if !strings.EqualFold(scheme, "Bearer") || parameters["realm"] == "" {
		t.known.Store(nil)
		return
	}
	t.known.Store(&challenge{scheme: req.URL.Scheme, realm: parameters["realm"], service: parameters["service"]})
}

// refuse is an answer that nobody gave.
func refuse(req *http.Request, challenge string) *http.Response {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return &http.Response{
		Status:     "401 Unauthorized",
		StatusCode: http.StatusUnauthorized,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     http.Header{"Www-Authenticate": {challenge}},
		Body:       http.NoBody,
		Request:    req,
	}
}

func (c *challenge) header() string {
	text := "Bearer realm=" + strconv.Quote(c.realm)
	if c.service != "" {
		text += ",service=" + strconv.Quote(c.service)
	}
	return text
}

// parseChallenge reads the first challenge of a WWW-Authenticate header: its
// scheme, and its parameters (RFC 9110, 11.6.1) as far as they can be read.
func parseChallenge(header string) (scheme string, parameters map[string]string) {
	if len(header) > maxChallengeBytes {
		return "", nil
	}
	scheme, rest := cutToken(header)
	parameters = make(map[string]string)
	for {
		key, after := cutToken(skipBlank(rest))
		after, isParameter := strings.CutPrefix(skipBlank(after), "=")
		if key == "" || !isParameter {
			return scheme, parameters
		}
		value, after := cutValue(skipBlank(after))
		parameters[key] = value
		after, more := strings.CutPrefix(skipBlank(after), ",")
		if !more {
			return scheme, parameters
		}
		rest = after
	}
}

// cutValue cuts a quoted string or a token.
func cutValue(text string) (value, rest string) {
	if !strings.HasPrefix(text, `"`) {
		return cutToken(text)
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", ""
	}
	value, _ = strconv.Unquote(quoted)
	return value, text[len(quoted):]
}

func cutToken(text string) (token, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if end < 0 {
		return text, ""
	}
	return text[:end], text[end:]
}

func skipBlank(text string) string { return strings.TrimLeft(text, " \t") }
