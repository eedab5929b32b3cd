package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
)

const octetStream = "application/octet-stream" // some registries take nothing else

// Blob reads a blob of at most limit bytes, by whatever redirects, and checks
// its digest.
func (r *Repository) Blob(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	subject := r.describe("read blob", d.String())
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	a, err := r.do(ctx, request{
		op:     subject,
		method: http.MethodGet,
		path:   "/blobs/" + d.String(),
		limit:  limit,
	}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	if err := checkDigest(subject, d.String(), a.body); err != nil {
		return nil, err
	}
	return a.body, nil
}

// PutBlob writes body in one request where the registry can do that, else in
// two. Which it is, is remembered for the host.
func (r *Repository) PutBlob(ctx context.Context, body []byte) error {
	d := digest.FromBytes(body)
	op := r.describe("write blob", d.String())
	upload, err := r.startUpload(ctx, op, d, body)
	if err != nil || upload == nil {
		return err
	}
	return r.finishUpload(ctx, op, upload, d, body)
}

// startUpload returns where to put the blob, or nil when it is already there.
func (r *Repository) startUpload(ctx context.Context, op string, d digest.Digest, body []byte) (*url.URL, error) {
	q := request{op: op, method: http.MethodPost, path: "/blobs/uploads/"}
	if !r.host.noSinglePost.Load() {
		single := q
		single.query = queryOf("digest", d.String())
		single.contentType = octetStream
		single.body = body
		a, err := r.do(ctx, single, http.StatusCreated, http.StatusAccepted)
		switch {
		case err == nil && a.status == http.StatusCreated:
			return nil, nil
		case err == nil:
			r.host.noSinglePost.Store(true)
			return uploadLocation(op, a)
		case !refusesSinglePost(err):
			return nil, err
		}
	}
	a, err := r.do(ctx, q, http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	r.host.noSinglePost.Store(true)
	return uploadLocation(op, a)
}

// refusesSinglePost reports an answer that can be to the form of the request.
// The specification wants a 202 instead, but not everybody follows it.
func refusesSinglePost(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		return true
	}
	return false
}

func (r *Repository) finishUpload(ctx context.Context, op string, to *url.URL, d digest.Digest, body []byte) error {
	if to.RawQuery != "" {
		to.RawQuery += "&" // the rest of it may be signed, and stays as it is
	}
	to.RawQuery += queryOf("digest", d.String()).Encode()
	_, err := r.do(ctx, request{
		op:          op,
		method:      http.MethodPut,
		at:          to,
		contentType: octetStream,
		body:        body,
	}, http.StatusCreated)
	return err
}

// uploadLocation is where the registry wants the blob. It can be relative, and
// on another host, which then gets no credentials.
func uploadLocation(op string, a *answer) (*url.URL, error) {
	location := a.header.Get("Location")
	refused := &Error{Op: op, Method: http.MethodPost, URL: redactURL(a.url), Status: a.status}
	to, err := a.url.Parse(location)
	switch {
	case location == "":
		refused.Err = errors.New("no upload location is given")
	case err != nil:
		refused.Err = errors.New("the upload location is not a URL")
	case to.Host == "" || to.Scheme != "https" && to.Scheme != "http":
		refused.Err = fmt.Errorf("the upload location %s is not a web address", redactURL(to))
	case leavesTLS(a.url, to):
		refused.Err = fmt.Errorf("the upload location %s is plain http, the registry https", redactURL(to))
	default:
		to.User, to.Fragment = nil, ""
		return to, nil
	}
	return nil, refused
}
