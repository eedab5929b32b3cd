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
	owner     string // sets what it shares apart from other endpoints'
	insecure  bool
	userAgent string
	sender    *sendTransport
	log       *zap.Logger

	anonymous  *http.Client // for hosts that get no credentials
	auth       *auth.Client
	challenges *challengeTransport

	scheme              atomic.Pointer[string] // nil: not known yet
	noSinglePost        atomic.Bool
	referrers           referrersKnown
	refusesSharedConfig atomic.Bool
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
	e := &endpoint{addr: at.addr, owner: at.host, insecure: at.insecure, userAgent: c.options.UserAgent, log: c.options.Log}
	if at.insecure {
		e.owner += " insecure"
	}
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
	transport := newTransport(e.sender, c.throttles, c.observer, e.unsure)
	e.anonymous = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	e.challenges = &challengeTransport{next: transport, owns: e.owns}
	// Of where a registry wants credentials sent for a token, this client refuses
	// what is not https or http, plain http from an https registry, and hosts
	// that are or resolve to loopback, link-local, unspecified or cloud metadata
	// addresses, unless the registry itself is on that host; the same for each
	// redirect on the way. Another host is let in, as Docker Hub has one, but
	// a redirect to yet another takes no credentials along.
	e.auth = &auth.Client{
		Client:   &http.Client{Transport: e.challenges, CheckRedirect: checkRedirect},
		ClientID: defaultUserAgent,
		Cache:    newTokenCache(e.owner, c.shared, c.config.credential),
		Credential: func(ctx context.Context, _ string) (auth.Credential, error) {
			return c.config.credential(ctx, callOf(ctx).credentials)
		},
	}
	e.auth.SetUserAgent(e.userAgent)
	return e, nil
}

// owns reports that u is of the registry itself, so that its credentials may
// be sent there.
func (e *endpoint) owns(u *url.URL) bool {
	return slices.Contains(e.schemes(), u.Scheme) && e.isHost(u)
}

// isHost reports that u is of the registry's host and port, whatever its scheme.
func (e *endpoint) isHost(u *url.URL) bool {
	return u.Host == e.addr || withPort(u.Host, u.Scheme) == withPort(e.addr, u.Scheme)
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
