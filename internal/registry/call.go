package registry

import (
	"context"
	"sync/atomic"
	"time"
)

// call is what the layers that one request passes through tell one another.
// The authentication client between them knows nothing of it, so it travels in
// the request's context.
type call struct {
	credentials string // repository or host whose credentials are used
	scopes      string // what is asked for up front

	// begin is told of each sending of a write, nil where nobody asks.
	begin BeginWrite

	// token is the cached token the request was sent with. When it is refused
	// and the cache holds another by then, somebody else has renewed it.
	token string

	// foreseen is the challenge the request was refused with before it was
	// sent, refusal one of the registry's own to refuse it with next. That it
	// was corrected so happens once.
	foreseen  *challenge
	refusal   string
	corrected bool

	// written is true while a request may have reached the server and its
	// answer has not come.
	written atomic.Bool
}

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// callOf is never nil, so that no layer depends on who sends a request.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// tokenAnswer marks the requests that fetch a token, and takes along what the
// authentication client drops of the answer.
type tokenAnswer struct {
	life time.Duration // 0: as long as it is accepted
}

type tokenKey struct{}

func withTokenAnswer(ctx context.Context, a *tokenAnswer) context.Context {
	return context.WithValue(ctx, tokenKey{}, a)
}

func tokenAnswerOf(ctx context.Context) (*tokenAnswer, bool) {
	a, ok := ctx.Value(tokenKey{}).(*tokenAnswer)
	return a, ok
}
