// Package relay stands between a signer and its registry, counts the requests
// that pass and holds each back for a while, as a distant registry would.
//
// It reads no more of HTTP/1.1 than where a request ends and how an answer
// begins, and passes the bytes on as they are: what it costs must not hide the
// difference between two signers. It spoils nothing (that is the proxy of
// test/peers) and knows nothing of signatures but the name of their tag.
package relay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Relay passes requests on to one registry, over plain HTTP.
type Relay struct {
	target   string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	delay    atomic.Int64
	record   record
}

// Start starts a relay to the registry at "host:port" on a free port of
// 127.0.0.1. Close it.
func Start(ctx context.Context, target string) (*Relay, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{target: target, listener: listener}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.running.Go(r.accept)
	return r, nil
}

// Host returns the "host:port" that clients connect to.
func (r *Relay) Host() string { return r.listener.Addr().String() }

// Delay holds each request back for so long from now on.
func (r *Relay) Delay(d time.Duration) { r.delay.Store(int64(d)) }

// Close ends all connections and the relay.
func (r *Relay) Close() error {
	r.cancel()
	err := r.listener.Close()
	r.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.serve(client) })
	}
}

// serve gives a client's connection one of its own to the registry.
func (r *Relay) serve(client net.Conn) {
	defer hangUp(client)
	dialer := net.Dialer{Timeout: 5 * time.Second}
	server, err := dialer.DialContext(r.ctx, "tcp", r.target)
	if err != nil {
		return
	}
	defer hangUp(server)
	ended := context.AfterFunc(r.ctx, func() {
		hangUp(client)
		hangUp(server)
	})
	defer ended()
	l := &link{relay: r, client: client, server: server}
	var answers sync.WaitGroup
	answers.Go(func() {
		l.answers()
		hangUp(client)
	})
	l.requests()
	hangUp(server)
	answers.Wait()
}

// link is one connection of a client. A client sends a request when it has the
// whole answer to the one before, so that there is at most one under way.
type link struct {
	relay          *Relay
	client, server net.Conn
	asked          atomic.Pointer[request] // whose answer has not begun
}

// requests passes requests on until either end hangs up.
func (l *link) requests() {
	from := bufio.NewReaderSize(l.client, 16<<10)
	to := bufio.NewWriterSize(l.server, 16<<10)
	for {
		head, err := readHead(from)
		if errors.Is(err, errHead) {
			l.refuse()
		}
		if err != nil {
			return
		}
		q := head.request
		l.relay.record.asked(q, time.Now())
		if !l.relay.hold() {
			return
		}
		l.asked.Store(&q)
		if _, err := to.Write(head.bytes); err != nil {
			return
		}
		if head.expects && to.Flush() != nil {
			return
		}
		if err := head.copyBody(to, from); err != nil {
			return
		}
		if to.Flush() != nil {
			return
		}
	}
}

// refuse says that this is not TLS, so that who tried that goes on without.
func (l *link) refuse() {
	_, _ = io.WriteString(l.client, "HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n") // it may have gone
}

// answers passes answers back until either end hangs up. It is noted before
// the client has the answer, who may be asked at once how many there were.
func (l *link) answers() {
	buffer := make([]byte, 16<<10)
	for {
		n, err := l.server.Read(buffer)
		if n > 0 {
			l.note(buffer[:n])
			if _, err := l.client.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (l *link) note(part []byte) {
	now := time.Now()
	q := l.asked.Load()
	if q == nil {
		l.relay.record.continued(now)
		return
	}
	status := statusOf(part)
	if status == 100 {
		return // its answer is yet to come
	}
	l.asked.Store(nil)
	l.relay.record.answered(*q, status, now)
}

// hold says false when the relay ends first.
func (r *Relay) hold() bool {
	d := time.Duration(r.delay.Load())
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// hangUp closes a connection; one that is closed already is as it must be.
func hangUp(c net.Conn) { _ = c.Close() }
