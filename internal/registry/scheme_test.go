package registry_test

import (
	"bytes"
	"io"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestSchemeIsLearnedAgainFromContradictions(t *testing.T) {
	t.Parallel()
	type host = func(req *http.Request) (status int, location, body string, err error)
	overHTTP := func(req *http.Request) (int, string, string, error) {
		if req.URL.Scheme == "https" {
			return 0, "", "", http.ErrSchemeMismatch
		}
		return 201, "", "", nil
	}
	behindProxy := func(req *http.Request) (int, string, string, error) {
		if req.URL.Scheme == "http" {
			return 301, "https://" + req.URL.Host + req.URL.Path, "", nil
		}
		return 201, "", "", nil
	}
	overTLS := func(text string) host {
		return func(req *http.Request) (int, string, string, error) {
			if req.URL.Scheme == "http" {
				return 400, "", text, nil
			}
			return 201, "", "", nil
		}
	}
	portClosed := func(req *http.Request) (int, string, string, error) {
		if req.URL.Scheme == "https" {
			return 0, "", "", syscall.ECONNREFUSED
		}
		return 201, "", "", nil
	}
	tests := map[string]struct {
		first, then host
		scheme      string // that is used in the end
		fails       bool
	}{
		"still http":              {overHTTP, overHTTP, "http", false},
		"http leads to https":     {overHTTP, behindProxy, "https", false},
		"Go's server of https":    {overHTTP, overTLS("Client sent an HTTP request to an HTTPS server.\n"), "https", false},
		"nginx":                   {overHTTP, overTLS("<center>The plain HTTP request was sent to HTTPS port</center>"), "https", false},
		"a bad request":           {overHTTP, overTLS("see https://registry.example.com"), "http", true},
		"https becomes http":      {overTLS(""), overHTTP, "http", false},
		"https is down for a bit": {overTLS(""), portClosed, "https", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			current := test.first
			var last atomic.Value
			o := machine(t)
			o.HostConcurrency = 1
			o.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
				last.Store(req.URL.Scheme)
				status, location, body, err := current(req)
				if err != nil {
					return nil, err
				}
				return &http.Response{
					StatusCode: status, Header: http.Header{"Location": {location}}, Request: req,
					Body: io.NopCloser(bytes.NewReader([]byte(body))),
				}, nil
			})
			repository, err := newClient(t, o).Repository("registry.example.com/app")
			require.NoError(t, err)
			put := func() error {
				return repository.PutManifest(t.Context(), "v1", registrytest.OCIManifest, []byte("{}"), nil)
			}
			require.NoError(t, put())
			current = test.then
			require.Equal(t, test.fails, put() != nil)
			require.Equal(t, test.fails, put() != nil)
			require.Equal(t, test.scheme, last.Load())
		})
	}
}
