package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNoReferrersAPI is what listing referrers ends with at a host that does not
// list them. They are then listed by an index under a tag, if at all.
var ErrNoReferrersAPI = errors.New("the registry has no referrers API")

// Referrers are few and their descriptors small. Whoever can push to a
// repository can add some, so that what is read of them has an end.
const (
	maxReferrersBytes = 4 << 20 // of all pages
	maxReferrersPages = 256
)

// What is known of a host's referrers API.
const (
	referrersUnknown int32 = iota
	referrersListed
	referrersNotListed
)

// HasReferrersAPI tells whether the host lists referrers. It is asked for those
// of subject the first time, for all who want to know meanwhile, since an
// answer to a write that does not tell of the API proves nothing. A failure is
// an error and not remembered.
func (r *Repository) HasReferrersAPI(ctx context.Context, subject digest.Digest) (bool, error) {
	if has, known := r.host.listsReferrers(); known {
		return has, nil
	}
	own := false
	_, err := r.client.shared.do(ctx, "referrers "+r.host.owner, func(ctx context.Context) (string, error) {
		own = true
		return "", r.askReferrersAPI(ctx, subject)
	})
	if err != nil && ctx.Err() == nil && !own {
		// Another repository was asked about, and what that one was refused
		// with says nothing of this.
		_, err = r.client.shared.do(ctx, "referrers "+r.host.owner+" "+r.at.name, func(ctx context.Context) (string, error) {
			return "", r.askReferrersAPI(ctx, subject)
		})
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", r.describe("list referrers", subject.String()), err)
	}
	if err != nil {
		return false, err
	}
	has, _ := r.host.listsReferrers()
	return has, nil
}

// askReferrersAPI asks, unless that has been done by now.
func (r *Repository) askReferrersAPI(ctx context.Context, subject digest.Digest) error {
	if _, known := r.host.listsReferrers(); known {
		return nil
	}
	_, err := r.referrersPage(ctx, subject, nil, maxReferrersBytes)
	if errors.Is(err, ErrNoReferrersAPI) {
		return nil
	}
	return err
}

// Referrers lists what the host says refers to subject, from all its pages. It
// asks for no filter, as not every host knows them. A host that turns out to
// have no API is ErrNoReferrersAPI.
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest) ([]oci.Descriptor, error) {
	op := r.describe("list referrers", subject.String())
	if has, known := r.host.listsReferrers(); known && !has {
		return nil, fmt.Errorf("%s: %w", op, ErrNoReferrersAPI)
	}
	var found []oci.Descriptor
	var next *url.URL
	left := int64(maxReferrersBytes)
	for range maxReferrersPages {
		a, err := r.referrersPage(ctx, subject, next, left)
		if err != nil {
			return nil, err
		}
		left -= int64(len(a.body))
		var page struct {
			Manifests []oci.Descriptor `json:"manifests"`
		}
		if err := json.Unmarshal(a.body, &page); err != nil {
			return nil, badReferrers(op, a, errors.New("the list cannot be read"))
		}
		for _, entry := range page.Manifests {
			if entry.Digest.Validate() == nil { // without, it leads nowhere
				found = append(found, entry)
			}
		}
		next, err = nextPage(a)
		switch {
		case err != nil:
			return nil, badReferrers(op, a, err)
		case next == nil:
			return found, nil
		case !r.host.owns(next):
			return nil, badReferrers(op, a, fmt.Errorf("the next page, %s, is not the registry's", redactURL(next)))
		}
	}
	return nil, fmt.Errorf("%s: more than %d pages", op, maxReferrersPages)
}

// referrersPage reads the first page, or the one that another has named, and
// learns from the first whether there is an API.
func (r *Repository) referrersPage(ctx context.Context, subject digest.Digest, at *url.URL, limit int64) (*answer, error) {
	op := r.describe("list referrers", subject.String())
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	a, err := r.do(ctx, request{
		op:     op,
		method: http.MethodGet,
		path:   "/referrers/" + subject.String(),
		at:     at,
		accept: mediaTypeOCIIndex,
		limit:  limit,
	}, http.StatusOK)
	var large *TooLargeError
	switch {
	case errors.As(err, &large):
		return nil, &TooLargeError{Subject: op, Limit: maxReferrersBytes}
	case at != nil:
		return a, err
	case err == nil && isIndex(a.header):
		r.host.referrers.CompareAndSwap(referrersUnknown, referrersListed)
		return a, nil
	case err == nil || refusesReferrers(err):
		r.host.lackReferrers()
		return nil, fmt.Errorf("%s: %w", op, ErrNoReferrersAPI)
	}
	return nil, err
}

func badReferrers(op string, a *answer, reason error) error {
	return &Error{Op: op, Method: http.MethodGet, URL: redactURL(a.url), Status: a.status, Err: reason}
}

// isIndex is what the specification wants an answer to be. A host that answers
// every path with some page has no API.
func isIndex(header http.Header) bool {
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	return err == nil && mediaType == mediaTypeOCIIndex
}

// refusesReferrers reports one of the answers of hosts that do not know the
// path. With the API the answer is an empty index where nothing refers.
func refusesReferrers(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Foreign {
		return false
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

// nextPage is where an answer says that the list goes on, nil if nowhere.
func nextPage(a *answer) (*url.URL, error) {
	target, ok := nextLink(a.header.Values("Link"))
	if !ok {
		return nil, nil
	}
	next, err := a.url.Parse(target)
	if err != nil {
		return nil, errors.New("the next page is not a URL")
	}
	next.User, next.Fragment = nil, ""
	return next, nil
}

// nextLink finds the target of the link to what comes next. Targets may hold
// commas and semicolons, which else separate links and their parameters.
func nextLink(headers []string) (target string, ok bool) {
	for _, rest := range headers {
		for {
			_, after, found := strings.Cut(rest, "<")
			if !found {
				break
			}
			target, after, found = strings.Cut(after, ">")
			if !found {
				break
			}
			parameters := after
			if end := strings.Index(after, "<"); end >= 0 {
				parameters = after[:end]
			}
			if leadsToNext(parameters) {
				return target, true
			}
			rest = after
		}
	}
	return "", false
}

func leadsToNext(parameters string) bool {
	for parameter := range strings.FieldsFuncSeq(parameters, func(r rune) bool { return r == ';' || r == ',' }) {
		key, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(key), "rel") && strings.EqualFold(strings.Trim(value, "\" \t"), "next") {
			return true
		}
	}
	return false
}

// What follows is what a host is known for.

func (e *endpoint) listsReferrers() (has, known bool) {
	state := e.referrers.Load()
	return state == referrersListed, state != referrersUnknown
}

// lackReferrers notes that a host did not list referrers. Where it was known
// to, that is forgotten first: one odd answer does not outweigh the others.
func (e *endpoint) lackReferrers() {
	if !e.referrers.CompareAndSwap(referrersListed, referrersUnknown) {
		e.referrers.CompareAndSwap(referrersUnknown, referrersNotListed)
	}
}

// noteSubject learns from the answer to a manifest that refers to another.
func (e *endpoint) noteSubject(header http.Header, manifest []byte) {
	if header.Get("OCI-Subject") == "" || e.referrers.Load() == referrersListed {
		return
	}
	var m struct {
		Subject *struct {
			Digest string `json:"digest"`
		} `json:"subject"`
	}
	if json.Unmarshal(manifest, &m) == nil && m.Subject != nil {
		e.referrers.Store(referrersListed)
	}
}

// RefusesSharedConfig tells whether the host is known to refuse attachments
// whose config blob is one for all.
func (r *Repository) RefusesSharedConfig() bool { return r.host.refusesSharedConfig.Load() }

// NoteSharedConfigRefused remembers that it does.
func (r *Repository) NoteSharedConfigRefused() { r.host.refusesSharedConfig.Store(true) }
