package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
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

// HasReferrersAPI tells whether the host lists referrers. It is asked for those
// of subject the first time, for all who want to know meanwhile, since an
// answer to a write that does not tell of the API proves nothing. A failure is
// an error and not remembered.
func (r *Repository) HasReferrersAPI(ctx context.Context, subject digest.Digest) (bool, error) {
	if has, known := r.host.referrers.of(r.at.path); known {
		return has, nil
	}
	has, asked, err := r.askTogether(ctx, "referrers "+r.host.owner, subject)
	if ctx.Err() == nil && !asked {
		if has, known := r.host.referrers.of(r.at.path); known {
			return has, nil
		}
		// Another repository was asked about, and what came of that says nothing
		// of this.
		has, _, err = r.askTogether(ctx, "referrers "+r.host.owner+" "+r.at.name, subject)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", r.describe("list referrers", subject.String()), err)
	}
	return has, err
}

// askTogether asks for all who ask under the same key; asked tells that it was
// for this repository.
func (r *Repository) askTogether(ctx context.Context, key string, subject digest.Digest) (has, asked bool, err error) {
	ours := false
	answer, err := r.client.shared.do(ctx, key, func(ctx context.Context) (string, error) {
		ours = true
		if has, known := r.host.referrers.of(r.at.path); known {
			return strconv.FormatBool(has), nil
		}
		_, err := r.referrersPage(ctx, subject, nil, maxReferrersBytes)
		if errors.Is(err, ErrNoReferrersAPI) {
			return strconv.FormatBool(false), nil
		}
		return strconv.FormatBool(true), err
	})
	if ctx.Err() != nil {
		return false, false, err // the work may go on, for others
	}
	return answer == strconv.FormatBool(true), ours, err
}

// Referrers lists what the host says refers to subject, from all its pages. It
// asks for no filter, as not every host knows them. A host that turns out to
// have no API is ErrNoReferrersAPI.
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest) ([]oci.Descriptor, error) {
	op := r.describe("list referrers", subject.String())
	if has, known := r.host.referrers.of(r.at.path); known && !has {
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
		r.host.referrers.listed(r.at.path)
		return a, nil
	case err != nil && !refusesReferrers(err):
		return nil, err
	}
	has, known := r.host.referrers.of(r.at.path)
	switch {
	case has && refusesSubject(err):
		return r.nothingRefers(), nil
	case !known && refusesUnknownSubject(err):
		// It may have the API, and nothing refers to the subject either way.
	default:
		r.host.referrers.lacking(r.at.path, refusesForm(err))
	}
	return nil, fmt.Errorf("%s: %w", op, ErrNoReferrersAPI)
}

// nothingRefers is the answer that the specification wants where nothing does.
func (r *Repository) nothingRefers() *answer {
	return &answer{status: http.StatusOK, header: http.Header{}, body: []byte(`{"manifests":[]}`), url: &url.URL{Host: r.host.addr}}
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
