package registry

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/signfleet/signfleet/internal/deadline"
)

// maxDrainBytes is how much of an unread body is worth reading so that its
// connection can be used again.
const maxDrainBytes = 64 << 10

// slots bound the requests that are under way at once, host by host.
type slots struct {
	each int

	mu    sync.Mutex
	hosts map[string]chan struct{}
}

func newSlots(each int) *slots {
	return &slots{each: each, hosts: make(map[string]chan struct{})}
}

// take waits for a slot of host. The wait is not working time of the image.
func (s *slots) take(ctx context.Context, host string) (release func(), err error) {
	free := s.of(host)
	release = sync.OnceFunc(func() { <-free })
	select {
	case free <- struct{}{}:
		return release, nil
	default:
	}
	resume := deadline.Pause(ctx, deadline.Rate)
	defer resume()
	select {
	case free <- struct{}{}:
		return release, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *slots) of(host string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, ok := s.hosts[host]
	if !ok {
		free = make(chan struct{}, s.each)
		s.hosts[host] = free
	}
	return free
}

// slotTransport holds a slot from before a request is sent until the body of
// its answer is closed, so that a slow body keeps its slot.
type slotTransport struct {
	slots *slots
	next  http.RoundTripper
}

func (t *slotTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	release, err := t.turn(req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	answered := false
	defer func() {
		if !answered { // a panic is no answer either
			release()
		}
	}()
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	answered = true
	resp.Body = &slotBody{ReadCloser: resp.Body, release: release}
	return resp, nil
}

// BeginWrite is called each time a write has its turn at the host and is about
// to be sent; with an error it is not sent. end is called when it is over: one
// write is sent more than once when it is redirected or first asked who we are,
// and the waiting in between is not part of it.
type BeginWrite func() (end func(), err error)

// turn takes a slot for a request and tells who asked for it.
func (t *slotTransport) turn(req *http.Request) (release func(), err error) {
	ctx := req.Context()
	free, err := t.slots.take(ctx, req.URL.Host)
	if err != nil {
		return nil, err
	}
	begin := callOf(ctx).begin
	if _, forToken := tokenAnswerOf(ctx); begin == nil || forToken {
		return free, nil
	}
	end, err := begin()
	if err != nil {
		free()
		return nil, err
	}
	return sync.OnceFunc(func() {
		end()
		free()
	}), nil
}

// slotBody gives the slot back, and the connection in a state in which it can
// be used again, whoever closes it: the libraries above close answers unread.
type slotBody struct {
	io.ReadCloser
	release func()
}

func (b *slotBody) Close() error {
	defer b.release()
	_, _ = io.CopyN(io.Discard, b.ReadCloser, maxDrainBytes)
	return b.ReadCloser.Close()
}
