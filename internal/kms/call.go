package kms

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// line counts the calls that nobody waits for any more and that have not ended.
// They end with their connection at the latest. That there are never more than so
// many keeps a service that takes calls and answers none from filling the memory.
type line struct {
	stuck atomic.Int64
	most  int64
}

// call makes one call to the service, within its time. Sigstore's client for Vault
// knows no context: a call of it that takes too long is left to itself.
func call[T any](ctx context.Context, c *client, op string, do func(ctx context.Context) (T, error)) (T, error) {
	var none T
	l := c.line
	if n := l.stuck.Load(); n >= l.most {
		return none, c.failed(op, fmt.Errorf("%w: %d calls wait for its answer already", ErrUnreachable, n))
	}
	type answer struct {
		value T
		err   error
	}
	limited, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	var left atomic.Bool // whoever sets it second counts
	answered := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("%w: its client panicked: %v", ErrRefused, p)
			}
			answered <- a
			if left.Swap(true) {
				l.stuck.Add(-1)
			}
		}()
		a.value, a.err = do(limited)
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return none, c.explain(ctx, limited, op, a.err)
		}
		return a.value, nil
	case <-limited.Done():
		l.stuck.Add(1)
		if left.Swap(true) {
			l.stuck.Add(-1)
		}
		return none, c.explain(ctx, limited, op, limited.Err())
	}
}

// explain makes of what a call ended with the error that it is: the end of ctx
// comes before what was said when it had ended.
func (c *client) explain(ctx, limited context.Context, op string, err error) error {
	switch {
	case ctx.Err() != nil:
		return &Error{URI: c.uri, Op: op, Err: context.Cause(ctx)}
	case limited.Err() != nil:
		return c.failed(op, fmt.Errorf("%w: no answer within %s", ErrUnreachable, c.options.Timeout.Round(time.Millisecond)))
	}
	return c.failed(op, err)
}
