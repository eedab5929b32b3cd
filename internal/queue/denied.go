package queue

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// DeniedError says that the user of this connection lacks a permission.
type DeniedError struct {
	// Subject is what the server did not let the user publish to, or the inbox
	// under which it did not let him have answers.
	Subject string
	// Hearing is true where the user was not let hear what others publish to Subject.
	Hearing bool
}

func (e *DeniedError) Error() string {
	switch {
	case e.Hearing:
		return fmt.Sprintf("the NATS server does not let this user hear %s: give him the permission to subscribe to it", e.Subject)
	case strings.HasPrefix(e.Subject, "_INBOX"):
		return fmt.Sprintf("the NATS server does not let this user have answers under %s: use the credentials of that role", e.Subject)
	}
	return fmt.Sprintf("the NATS server does not let this user publish to %s: use the credentials of the role that may "+
		"(submitter, webhook, worker or operator), or give this one the permission", e.Subject)
}

// denials remembers what the server refused. It says so apart from the question
// that was refused, which gets no answer at all.
type denials struct {
	names names

	mu      sync.Mutex
	last    map[string]time.Time // by subject
	watched map[*denialWatch]struct{}
}

type denialWatch struct {
	denied DeniedError
	cancel context.CancelCauseFunc
}

// maxDenials bounds the subjects remembered at once.
const maxDenials = 256

var deniedPattern = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// note takes an error that the client was told asynchronously.
func (d *denials) note(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	match := deniedPattern.FindStringSubmatch(err.Error())
	if match == nil {
		return
	}
	denied := DeniedError{Subject: match[2], Hearing: strings.EqualFold(match[1], "subscription")}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !denied.Hearing { // no question to a stream ends by that
		if d.last == nil || len(d.last) >= maxDenials {
			d.last = make(map[string]time.Time)
		}
		d.last[denied.Subject] = time.Now()
	}
	for watch := range d.watched {
		if watch.denied == denied {
			watch.cancel(&denied)
		}
	}
}

// watch returns a context that ends, with a *DeniedError for its cause, when what
// that says is refused. stop must be called.
func (d *denials) watch(ctx context.Context, denied DeniedError) (watching context.Context, stop func()) {
	watching, cancel := context.WithCancelCause(ctx)
	watch := &denialWatch{denied: denied, cancel: cancel}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watched == nil {
		d.watched = make(map[*denialWatch]struct{})
	}
	d.watched[watch] = struct{}{}
	return watching, func() {
		d.mu.Lock()
		delete(d.watched, watch)
		d.mu.Unlock()
		cancel(nil)
	}
}

// command bounds one question to the server, which ends at once when the server
// does not let this user ask it.
func (c *Conn) command(ctx context.Context, patience time.Duration, subject string) (context.Context, func()) {
	bounded, cancel := context.WithTimeout(ctx, patience)
	watching, stop := c.denied.watch(bounded, DeniedError{Subject: subject})
	return watching, func() { stop(); cancel() }
}

// refused is err, or the refusal that brought it about.
func refused(ctx context.Context, err error) error {
	var denied *DeniedError
	if errors.As(context.Cause(ctx), &denied) {
		return denied
	}
	return err
}

// of returns a *DeniedError when a question about a stream was refused lately.
func (d *denials) of(stream string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for subject, at := range d.last {
		if time.Since(at) < 2*answerPatience && d.names.concern(subject, stream) {
			return &DeniedError{Subject: subject}
		}
	}
	return nil
}

// concern reports whether a subject is one of a stream or of its API.
func (n names) concern(subject, stream string) bool {
	if bucket, ok := strings.CutPrefix(stream, "KV_"); ok && strings.HasPrefix(subject, "$KV."+bucket+".") {
		return true
	}
	if own := n.subjectsOf(stream); own != "" && strings.HasPrefix(subject, own) {
		return true
	}
	for token := range strings.SplitSeq(subject, ".") {
		if token == stream {
			return true
		}
	}
	return false
}

// subjectsOf is how the subjects of a stream begin, if it is none of a bucket.
func (n names) subjectsOf(stream string) string {
	switch stream {
	case n.requests:
		return n.request
	case n.outcomes:
		return n.outcome
	case n.dead:
		return n.letter
	}
	return ""
}
