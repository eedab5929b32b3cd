package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	// A token is renewed when less than a fifth of its life is left, and at
	// most this long ahead.
	maxRenewAhead = 30 * time.Second

	// User and password have no stated end, but there are registries whose
	// helpers give passwords of hours, and that answer 403 to an old one, which
	// nobody would take for a reason to look again.
	basicLife = 10 * time.Minute

	// Fewer tokens than this are not worth looking for expired ones.
	minSweep = 64
)

var errNoToken = errors.New("no token")

// fetchToken is how the authentication client gets a token for one scope. It
// can be called again for another.
type fetchToken = func(context.Context) (string, error)

// tokenCache keeps the tokens of one registry for an auth.Client. The cache of
// the library gives one caller's cancellation to all who wait for the same
// token, and forgets when tokens expire; this one does neither.
type tokenCache struct {
	owner  string // sets its flights apart from those of other registries
	shared *flights
	basic  func(ctx context.Context, name string) (auth.Credential, error)

	mu     sync.Mutex
	scheme auth.Scheme
	tokens map[string]*token
	sweep  int // how many of them are worth looking for expired ones
}

type token struct {
	value   string
	fetch   fetchToken
	expires time.Time // zero: not known
	renewAt time.Time
}

var _ auth.Cache = (*tokenCache)(nil)

func newTokenCache(owner string, shared *flights, credential func(context.Context, string) (auth.Credential, error)) *tokenCache {
	return &tokenCache{owner: owner, shared: shared, basic: credential, tokens: make(map[string]*token), sweep: minSweep}
}

// GetScheme returns the scheme the registry last asked for.
func (c *tokenCache) GetScheme(context.Context, string) (auth.Scheme, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.scheme == auth.SchemeUnknown {
		return auth.SchemeUnknown, errNoToken
	}
	return c.scheme, nil
}

// GetToken returns a token that can be expected to be accepted. It renews one
// that ends soon, and makes the one of a basic scheme, which needs no request.
func (c *tokenCache) GetToken(ctx context.Context, _ string, scheme auth.Scheme, scopes string) (string, error) {
	value, err := c.usable(ctx, tokenKeyOf(ctx, scheme, scopes), scheme)
	if err != nil {
		return "", err
	}
	callOf(ctx).token = value
	return value, nil
}

// Set fetches a token, or joins whoever fetches it already.
func (c *tokenCache) Set(ctx context.Context, _ string, scheme auth.Scheme, scopes string, fetch fetchToken) (string, error) {
	current := callOf(ctx)
	key := tokenKeyOf(ctx, scheme, scopes)
	value, err := c.renew(ctx, key, scheme, current.token, fetch)
	if err != nil {
		return "", err
	}
	c.adopt(scheme, key, tokenKeyOf(ctx, scheme, current.scopes))
	current.token = value
	return value, nil
}

// tokenKeyOf keeps credentials apart: a basic token has no scope, and two
// repositories of a host may have different users.
func tokenKeyOf(ctx context.Context, scheme auth.Scheme, scopes string) string {
	return strings.Join([]string{scheme.String(), callOf(ctx).credentials, scopes}, " ")
}

func (c *tokenCache) usable(ctx context.Context, key string, scheme auth.Scheme) (string, error) {
	held := c.held(key)
	now := time.Now()
	switch {
	case held != nil && (held.renewAt.IsZero() || now.Before(held.renewAt)):
		return held.value, nil
	case held == nil && scheme == auth.SchemeBasic:
		return c.renew(ctx, key, scheme, "", c.basicToken)
	case held == nil:
		return "", errNoToken
	}
	value, err := c.renew(ctx, key, scheme, held.value, held.fetch)
	if err != nil && ctx.Err() == nil && now.Before(held.expires) {
		return held.value, nil
	}
	return value, err
}

// basicToken saves the refused request that a second repository of a host
// would begin with.
func (c *tokenCache) basicToken(ctx context.Context) (string, error) {
	credential, err := c.basic(ctx, callOf(ctx).credentials)
	if err != nil {
		return "", err
	}
	if credential.Username == "" || credential.Password == "" {
		return "", errNoToken
	}
	return base64.StdEncoding.EncodeToString([]byte(credential.Username + ":" + credential.Password)), nil
}

// renew gets another token than old, which the caller was refused with or does
// not want to be. Somebody else may have brought it by the time it is our turn.
func (c *tokenCache) renew(ctx context.Context, key string, scheme auth.Scheme, old string, fetch fetchToken) (string, error) {
	return c.shared.do(ctx, "token "+c.owner+" "+key, func(ctx context.Context) (string, error) {
		if held := c.held(key); held != nil && held.value != old {
			return held.value, nil
		}
		answer := &tokenAnswer{}
		value, err := fetch(withTokenAnswer(ctx, answer))
		if err != nil {
			return "", err
		}
		if scheme == auth.SchemeBasic {
			answer.life = basicLife
		}
		renewed := &token{value: value, fetch: fetch}
		if answer.life > 0 {
			renewed.expires = time.Now().Add(answer.life)
			renewed.renewAt = renewed.expires.Add(-min(answer.life/5, maxRenewAhead))
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tokens[key] = renewed
		c.sweepExpired()
		return value, nil
	})
}

// sweepExpired removes what is of no use any more each time the tokens have
// doubled, so that a registry of many repositories is not held for ever and
// the looking costs nothing. Needs mu.
func (c *tokenCache) sweepExpired() {
	if len(c.tokens) < c.sweep {
		return
	}
	now := time.Now()
	maps.DeleteFunc(c.tokens, func(_ string, t *token) bool {
		return !t.expires.IsZero() && t.expires.Before(now)
	})
	c.sweep = max(minSweep, 2*len(c.tokens))
}

// adopt notes the scheme, and stores a token also under the scopes it was
// first looked for: a registry that asks for more than was hinted would else
// refuse the first try of every request.
func (c *tokenCache) adopt(scheme auth.Scheme, key, hint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scheme = scheme
	if held := c.tokens[key]; held != nil {
		c.tokens[hint] = held
	}
}

func (c *tokenCache) held(key string) *token {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tokens[key]
}
