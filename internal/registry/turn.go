package registry

import (
	"context"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/signfleet/signfleet/internal/deadline"
)

const (
	// maxDrainBytes is how much of an unread body is worth reading so that its
	// connection can be used again.
	maxDrainBytes = 64 << 10

	// maxThrottled is how often a request that was answered 429 is sent again.
	maxThrottled = 10
)

// throttleTransport sends each request when it is its turn at the host, and
// again what the host wants later: after a 429 nothing has been done, whatever
// the method. A turn lasts from before a request is sent until the body of its
// answer is closed, so that a slow body keeps its slot.
type throttleTransport struct {
	hosts    *throttles
	observer *observer // may be nil
	next     http.RoundTripper
}

func (t *throttleTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	host := t.hosts.of(req.URL.Host)
	for repeat := 0; ; repeat++ {
		asked := time.Now()
		begun, err := takeTurn(req.Context(), host)
		t.observer.waited(req.Context(), req.URL.Host, time.Since(asked))
		if err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
		resp, err := t.send(begun, req)
		if err != nil {
			return nil, err
		}
		said := t.hear(host, begun.sent, req, resp)
		if said.left == 0 || said.left > maxSitOut || !repeatsThrottled(req, resp, repeat) {
			return resp, nil
		}
		again, ok := rewound(req)
		if !ok {
			return resp, nil
		}
		closeBody(resp.Body)
		if said.alone {
			began := time.Now()
			err := sitOutAlone(req.Context(), said.left)
			t.observer.waited(req.Context(), req.URL.Host, time.Since(began))
			if err != nil {
				return nil, err
			}
		}
		req = again
	}
}

// sitOutAlone waits, which is not working time of the image.
func sitOutAlone(ctx context.Context, left time.Duration) error {
	resume := deadline.Pause(ctx, deadline.Rate)
	defer resume()
	return await(ctx, left, nil)
}

func (t *throttleTransport) send(begun *turn, req *http.Request) (*http.Response, error) {
	answered := false
	defer func() {
		if !answered { // a panic is no answer either
			begun.release()
		}
	}()
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	answered = true
	resp.Body = &turnBody{ReadCloser: resp.Body, release: begun.release}
	return resp, nil
}

// hear tells the host's throttle what was answered, and returns what comes of
// it. A 503 counts where it says so itself.
func (t *throttleTransport) hear(host *throttle, sent time.Time, req *http.Request, resp *http.Response) verdict {
	now := time.Now()
	tooMany := resp.StatusCode == http.StatusTooManyRequests
	var after time.Duration
	if tooMany || resp.StatusCode == http.StatusServiceUnavailable {
		after = parseRetryAfter(resp.Header, now)
	}
	if !tooMany && after == 0 {
		kind := ""
		if host.suspects.some.Load() { // else nobody asks
			kind = kindOf(req)
		}
		host.accepted(kind, sent, now)
		return verdict{}
	}
	said := host.refused(refusal{kind: kindOf(req), sent: sent, after: after, tooMany: tooMany}, now)
	if said.left > after {
		// Whoever reads it shall know of the pause that there is.
		resp.Header.Set("Retry-After", strconv.Itoa(int(math.Ceil(said.left.Seconds()))))
	}
	if said.news {
		host.tell()
	}
	said.left = max(said.left, 1)
	return said
}

// repeatsThrottled tells apart a 429, which is sent again whatever it was, and a
// 503, after which it is not known what became of a write.
func repeatsThrottled(req *http.Request, resp *http.Response, repeat int) bool {
	if resp.StatusCode == http.StatusTooManyRequests {
		return repeat < maxThrottled
	}
	_, forToken := tokenAnswerOf(req.Context())
	return (forToken || !isWrite(req.Method)) && repeat < maxRepeats
}

// rewound is the request with its body from the beginning.
func rewound(req *http.Request) (again *http.Request, ok bool) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, true
	}
	if req.GetBody == nil {
		return nil, false
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, false
	}
	again = req.WithContext(req.Context())
	again.Body = body
	return again, true
}

// BeginWrite is called each time a write has its turn at the host and is about
// to be sent; with an error it is not sent. end is called when it is over: one
// write is sent more than once when it is redirected, first asked who we are or
// refused for now, and the waiting in between is not part of it.
type BeginWrite func() (end func(), err error)

// turn is a request's at a host.
type turn struct {
	sent    time.Time
	release func()
}

// takeTurn waits for a turn and tells who asked for it.
func takeTurn(ctx context.Context, host *throttle) (*turn, error) {
	sent, err := host.enter(ctx)
	if err != nil {
		return nil, err
	}
	begin := callOf(ctx).begin
	if _, forToken := tokenAnswerOf(ctx); begin == nil || forToken {
		return &turn{sent: sent, release: sync.OnceFunc(host.leave)}, nil
	}
	end, err := begin()
	if err != nil {
		host.leave()
		return nil, err
	}
	return &turn{sent: sent, release: sync.OnceFunc(func() {
		end()
		host.leave()
	})}, nil
}

// turnBody ends the turn, and leaves the connection in a state in which it can
// be used again, whoever closes it: the libraries above close answers unread.
type turnBody struct {
	io.ReadCloser
	release func()
}

func (b *turnBody) Close() error {
	defer b.release()
	_, _ = io.CopyN(io.Discard, b.ReadCloser, maxDrainBytes)
	return b.ReadCloser.Close()
}
