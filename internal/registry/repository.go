package registry

import (
	"context"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Repository is one repository of one registry. It costs nothing to make, and
// two of the same name share all that is known of it.
type Repository struct {
	client *Client
	name   string
	at     target
	host   *endpoint
	scope  string
}

// Repository returns the repository called name, "host/path" in full
// (docker.io/library/alpine), where registries.conf says that it is.
func (c *Client) Repository(name string) (*Repository, error) {
	at, err := c.config.resolve(name)
	if err != nil {
		return nil, err
	}
	host, err := c.endpoint(at)
	if err != nil {
		return nil, err
	}
	actions := []string{auth.ActionPull, auth.ActionPush}
	if c.options.ReadOnly {
		actions = []string{auth.ActionPull}
	}
	return &Repository{
		client: c,
		name:   name,
		at:     at,
		host:   host,
		scope:  auth.ScopeRepository(at.path, actions...),
	}, nil
}

// Name is the name the repository was asked for by.
func (r *Repository) Name() string { return r.name }

// Location is where the repository is: the same for all names that lead to it
// (by registries.conf, by Docker Hub's two hosts, by a scheme's own port). Two
// repositories on the two such ports of one host have the same.
func (r *Repository) Location() string {
	host := strings.ToLower(r.at.addr)
	host = strings.TrimSuffix(strings.TrimSuffix(host, ":443"), ":80")
	return host + "/" + r.at.path
}

// do sends a request of this repository, whose path and query are relative to
// it. Reading and writing are asked for at once, so that one token serves all
// that is done with an image.
func (r *Repository) do(ctx context.Context, q request, success ...int) (*answer, error) {
	if q.at == nil {
		q.path = "/v2/" + r.at.path + q.path
	}
	q.credentials = r.at.name
	if q.scope == "" {
		q.scope = r.scope
	}
	return r.host.do(ctx, q, success...)
}

// describe names something of the repository in errors.
func (r *Repository) describe(what, reference string) string {
	separator := ":"
	if isDigest(reference) {
		separator = "@"
	}
	return what + " " + r.name + separator + reference
}

func queryOf(key, value string) url.Values { return url.Values{key: {value}} }
