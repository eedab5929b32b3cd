package peers

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// TCPProxy stands between clients and a TCP server. It passes bytes on
// unchanged, until it is told to cut its connections, to refuse new ones, or to
// hold back what goes through them.
type TCPProxy struct {
	target   string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	links   map[net.Conn]context.CancelFunc // by the client's end
	refuses bool
	flowing chan struct{} // closed while bytes pass
	limit   int64         // bytes that may still go to the server; -1 = no limit
	stalled chan struct{} // closed when they stop to pass
}

// StartTCPProxy starts a proxy for a server at "host:port" on a free port of
// 127.0.0.1. The server need not be there yet. Close it.
func StartTCPProxy(ctx context.Context, target string) (*TCPProxy, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &TCPProxy{
		target: target, listener: listener, links: map[net.Conn]context.CancelFunc{},
		flowing: make(chan struct{}), stalled: make(chan struct{}), limit: -1,
	}
	close(p.flowing)
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.running.Go(p.accept)
	return p, nil
}

// Address returns the "host:port" that clients connect to.
func (p *TCPProxy) Address() string { return p.listener.Addr().String() }

// Cut closes all connections and returns how many there were.
func (p *TCPProxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cut := range p.links {
		cut()
	}
	return len(p.links)
}

// Refuse says whether new connections are closed at once.
func (p *TCPProxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = refuse
}

// Stall stops the bytes in both directions, and leaves connections open.
func (p *TCPProxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stall()
}

// StallAfter is Stall once so many more bytes have gone to the server.
func (p *TCPProxy) StallAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = n
}

// Stalled returns a channel that is closed when bytes stop to pass.
func (p *TCPProxy) Stalled() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stalled
}

// Resume lets bytes pass again.
func (p *TCPProxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = -1
	select {
	case <-p.flowing:
	default:
		close(p.flowing)
		p.stalled = make(chan struct{})
	}
}

// Close ends all connections and the proxy.
func (p *TCPProxy) Close() error {
	p.cancel()
	err := p.listener.Close()
	p.Cut()
	p.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// stall is called with the lock.
func (p *TCPProxy) stall() {
	select {
	case <-p.flowing:
		p.flowing = make(chan struct{})
		close(p.stalled)
	default:
	}
}

func (p *TCPProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve connects one client with the server until either hangs up.
func (p *TCPProxy) serve(client net.Conn) {
	defer hangUp(client)
	if p.refusing() {
		return
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	server, err := dialer.DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer hangUp(server)
	ctx, cut := context.WithCancel(p.ctx)
	defer cut()
	if !p.enter(client, cut) {
		return
	}
	defer p.leave(client)
	hungUp := context.AfterFunc(ctx, func() {
		hangUp(client)
		hangUp(server)
	})
	defer hungUp()
	var answers sync.WaitGroup
	answers.Go(func() {
		defer cut()
		p.pump(ctx, client, server, false)
	})
	p.pump(ctx, server, client, true)
	cut()
	answers.Wait()
}

func (p *TCPProxy) refusing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuses
}

// enter says false when the proxy has ended or refuses by now.
func (p *TCPProxy) enter(client net.Conn, cut context.CancelFunc) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || p.refuses {
		return false
	}
	p.links[client] = cut
	return true
}

func (p *TCPProxy) leave(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, client)
}

// pump passes bytes on until an end hangs up.
func (p *TCPProxy) pump(ctx context.Context, to, from net.Conn, toServer bool) {
	buffer := make([]byte, 4096) // small, so that StallAfter is near what was said
	for {
		n, err := from.Read(buffer)
		if n > 0 && (!p.admit(ctx, n, toServer) || !writeAll(to, buffer[:n])) {
			return
		}
		if err != nil {
			return
		}
	}
}

// admit waits while bytes are held back; it says false when the link ends first.
func (p *TCPProxy) admit(ctx context.Context, n int, toServer bool) bool {
	p.mu.Lock()
	if toServer && p.limit >= 0 {
		if p.limit -= int64(n); p.limit < 0 {
			p.limit = 0
			p.stall()
		}
	}
	flowing := p.flowing
	p.mu.Unlock()
	select {
	case <-flowing:
		return true
	case <-ctx.Done():
		return false
	}
}

func writeAll(to net.Conn, data []byte) bool {
	_, err := to.Write(data)
	return err == nil
}

// hangUp closes a connection; one that is closed already is as it must be.
func hangUp(c net.Conn) { _ = c.Close() }
