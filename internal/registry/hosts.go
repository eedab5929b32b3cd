package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// target is where a name leads after registries.conf has been applied.
type target struct {
	name     string // after rewriting: host, or host/path
	host     string // as names and certs.d write it: docker.io
	addr     string // as it is dialled: registry-1.docker.io
	path     string // the repository in the registry
	insecure bool
}

// endpointKey is what repositories that share an endpoint have in common. One
// host can be insecure for some of its repositories only.
type endpointKey struct {
	host     string
	insecure bool
}

// endpoint is one registry host and what has been learned of it.
type endpoint struct {
	addr      string
	insecure  bool
	userAgent string
	sender    *sendTransport
	log       *zap.Logger

	anonymous *http.Client // for hosts that get no credentials
	auth      *auth.Client

	scheme       atomic.Pointer[string] // nil: not known yet
	noSinglePost atomic.Bool
}

func (c *Client) endpoint(at target) (*endpoint, error) {
	key := endpointKey{host: at.host, insecure: at.insecure}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.endpoints[key]; ok {
		return e, nil
	}
	e, err := c.newEndpoint(at)
	if err != nil {
		return nil, err
	}
	c.endpoints[key] = e
	return e, nil
}

func (c *Client) newEndpoint(at target) (*endpoint, error) {
	e := &endpoint{addr: at.addr, insecure: at.insecure, userAgent: c.options.UserAgent, log: c.options.Log}
	if own := c.options.Transport; own != nil {
		e.sender = &sendTransport{addr: at.addr, own: own, others: own, foreign: true}
	} else {
		settings := &tls.Config{MinVersion: tls.VersionTLS12}
		if err := c.config.setUpTLS(at.host, settings); err != nil {
			return nil, err
		}
		settings.InsecureSkipVerify = at.insecure
		e.sender = newSendTransport(at.addr, settings, c.options)
	}
	e.anonymous = &http.Client{
		Transport:     newTransport(e.sender, c.slots, e.unsure),
		CheckRedirect: checkRedirect,
	}
	owner := at.host
	if at.insecure {
		owner += " insecure"
	}
	e.auth = &auth.Client{
		Client:   e.anonymous,
		ClientID: defaultUserAgent,
		Cache:    newTokenCache(owner, c.shared, c.config.credential),
		Credential: func(ctx context.Context, _ string) (auth.Credential, error) {
			return c.config.credential(ctx, callOf(ctx).credentials)
		},
	}
	e.auth.SetUserAgent(e.userAgent)
	return e, nil
}

// unsure reports that http may be tried after https.
func (e *endpoint) unsure() bool { return e.insecure && e.scheme.Load() == nil }

// schemes are those to try, in order.
func (e *endpoint) schemes() []string {
	if known := e.scheme.Load(); known != nil {
		return []string{*known}
	}
	if e.insecure {
		return []string{"https", "http"}
	}
	return []string{"https"}
}

// answered remembers the scheme that got an answer.
func (e *endpoint) answered(scheme string) {
	if e.unsure() && e.scheme.CompareAndSwap(nil, &scheme) && scheme == "http" {
		e.log.Warn("registry speaks plain http: what is sent to it, credentials too, can be read on the way",
			zap.String("registry", e.addr))
	}
}

// owns reports that u is of the registry itself, so that its credentials may
// be sent there.
func (e *endpoint) owns(u *url.URL) bool {
	return slices.Contains(e.schemes(), u.Scheme) && e.isHost(u)
}

// isHost reports that u is of the registry's host and port, whatever its scheme.
func (e *endpoint) isHost(u *url.URL) bool {
	return withPort(u.Host, u.Scheme) == withPort(e.addr, u.Scheme)
}

func withPort(host, scheme string) string {
	u := url.URL{Host: strings.ToLower(host)}
	switch {
	case u.Port() != "":
		return u.Host
	case scheme == "https":
		return u.Host + ":443"
	default:
		return u.Host + ":80"
	}
}

func (e *endpoint) closeIdle() { e.sender.closeIdle() }

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
