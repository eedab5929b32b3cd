package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrNotFound is what a registry's own 404 is, whatever its body says:
// registries differ in the code they give for a tag that is not there.
var ErrNotFound = errors.New("not found")

const (
	// An error is a few hundred bytes; proxies answer with whole pages.
	maxErrorBytes   = 64 << 10
	maxDiagnostics  = 8
	maxMessageBytes = 512
)

// Error is an answer that is not a success, or none. What is known of it is in
// the fields; its text shows no query that could be a secret.
type Error struct {
	Op     string // what was being done
	Method string
	URL    string // redacted
	Status int    // 0: there was no answer, and Err says why

	// Foreign reports that the answer is not of the registry but of a host that
	// it sent us to: storage, a CDN. What such a host lacks or denies (a signed
	// URL that has expired) says nothing of what the registry has or allows.
	Foreign bool

	Codes      []Diagnostic
	RetryAfter time.Duration // 0: the registry asked for no wait
	Err        error         // the cause, where it is not the answer itself

	outcomeUnknown bool
	gaveUp         bool // the caller did: its context ended
}

// NewForeignClientError is the error of a request that another client has made, as
// far as it is known: status is 0 where there was no answer.
func NewForeignClientError(ctx context.Context, op, subject string, status int, reason error) *Error {
	e := &Error{Op: op, Method: http.MethodGet, URL: subject, Status: status, Err: reason}
	if ctx.Err() != nil {
		e.gaveUp, e.Err = true, gaveUp(ctx)
	}
	return e
}

// Diagnostic is one of the errors a registry gave in the body of its answer.
type Diagnostic struct {
	Code    string
	Message string
}

func (d Diagnostic) String() string {
	if d.Code == "" || d.Message == "" {
		return d.Code + d.Message
	}
	return d.Code + ": " + d.Message
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s %s", e.Op, e.Method, e.URL)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": %d %s", e.Status, http.StatusText(e.Status))
	}
	for _, d := range e.Codes {
		b.WriteString(": " + d.String())
	}
	if e.Err != nil {
		b.WriteString(": " + redactText(e.Err.Error()))
	}
	return b.String()
}

// Unwrap gives the cause of an error without an answer.
func (e *Error) Unwrap() error { return e.Err }

// Is makes a 404 an ErrNotFound, but only the registry's own: who takes
// another's for it writes anew what is there.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound && !e.Foreign
}

// Network reports that the registry gave no answer or a cut one (dial, TLS,
// connection), and that it was not us who gave up.
func (e *Error) Network() bool {
	var refused *RedirectError
	return e.Status == 0 && !e.gaveUp && !errors.As(e.Err, &refused)
}

// Immutable reports that a write was refused because the tag exists and must
// not change. There is no standard for it: Quay has a code of its own, the
// others only words. Docker Hub's bare 403 cannot be told from other denials.
func (e *Error) Immutable() bool {
	if e.Method == http.MethodGet || e.Method == http.MethodHead || e.Status < 400 || e.Status > 499 {
		return false
	}
	for _, d := range e.Codes {
		message := strings.ToLower(d.Message)
		if d.Code == "TAG_IMMUTABLE" || strings.Contains(message, "immutab") || strings.Contains(message, "cannot be overwritten") {
			return true
		}
	}
	return false
}

// OutcomeUnknown reports that err is of a write that may or may not have
// happened: it was sent, and no answer or a server error came back.
func OutcomeUnknown(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.outcomeUnknown
}

// MismatchError is content that is not what its digest says.
type MismatchError struct {
	Subject   string // what was read or written
	Want, Got digest.Digest
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s: digest is %s, want %s", e.Subject, e.Got, e.Want)
}

// TooLargeError is an answer longer than the caller would read.
type TooLargeError struct {
	Subject string // what was read
	Limit   int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s: larger than %d bytes", e.Subject, e.Limit)
}

// BlockedError is a repository that registries.conf forbids.
type BlockedError struct {
	Repository string
	Prefix     string // the entry that blocks it
	Source     string // the files it can be in
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("%s: registry %s is blocked in %s", e.Repository, e.Prefix, e.Source)
}

// CredentialError is a failure to read the stored credentials, of a file or of
// a credential helper. Having none is not an error.
type CredentialError struct {
	Name string // repository or host
	Err  error
}

func (e *CredentialError) Error() string {
	return fmt.Sprintf("read the credentials for %s: %s", e.Name, redactText(e.Err.Error()))
}

// Unwrap gives the cause.
func (e *CredentialError) Unwrap() error { return e.Err }

// newStatusError reads the facts of an answer that is not a success.
func newStatusError(op, method string, u *url.URL, status int, header http.Header, body []byte) *Error {
	return &Error{
		Op:             op,
		Method:         method,
		URL:            redactURL(u),
		Status:         status,
		Codes:          parseDiagnostics(header.Get("Content-Type"), body),
		RetryAfter:     parseRetryAfter(header, time.Now()),
		outcomeUnknown: status >= http.StatusInternalServerError && isWrite(method),
	}
}

func isWrite(method string) bool {
	return method != http.MethodGet && method != http.MethodHead
}

// parseDiagnostics accepts what the specification says and what is sent
// instead: numbers for codes, other members beside, a lone message, plain text.
func parseDiagnostics(contentType string, body []byte) []Diagnostic {
	var answer struct {
		Errors []struct {
			Code    any `json:"code"`
			Message any `json:"message"`
			Detail  any `json:"detail"`
		} `json:"errors"`
		Message any `json:"message"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		if mediaType, _, _ := mime.ParseMediaType(contentType); mediaType != "text/plain" {
			return nil
		}
		if text := printable(string(body), maxMessageBytes); text != "" {
			return []Diagnostic{{Message: text}}
		}
		return nil
	}
	var found []Diagnostic
	for _, e := range answer.Errors[:min(len(answer.Errors), maxDiagnostics)] {
		message := text(e.Message)
		if detail, ok := e.Detail.(string); ok && detail != "" && detail != message {
			message = strings.TrimPrefix(message+": "+detail, ": ")
		}
		found = append(found, Diagnostic{
			Code:    printable(text(e.Code), 64),
			Message: printable(message, maxMessageBytes),
		})
	}
	if len(found) == 0 && text(answer.Message) != "" {
		found = append(found, Diagnostic{Message: printable(text(answer.Message), maxMessageBytes)})
	}
	return found
}

func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// parseRetryAfter reads both forms of the header. A date is taken relative to
// the answer's own, so that a clock that is off here does no harm.
func parseRetryAfter(header http.Header, now time.Time) time.Duration {
	const longest = math.MaxInt32 * time.Second
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), math.MaxInt32)) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if sent, err := http.ParseTime(header.Get("Date")); err == nil {
		now = sent
	}
	return min(max(at.Sub(now), 0), longest)
}
