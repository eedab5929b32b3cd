package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// process is one run of a worker: a client of the server that may die.
type process struct {
	server  *server
	number  int
	stop    context.CancelFunc // the signal to drain
	dead    bool
	randoms map[string]*rand.Rand // by what calls are about
}

// die ends the process between two of its steps: nothing that it does from now
// on has an effect. Needs mu.
func (p *process) die() {
	p.server.tell("worker %d: dies", p.number)
	p.dead = true
	p.stop()
	for key := range p.randoms {
		if f, ok := p.server.facts[key]; ok && p.server.messages[key] == nil {
			f.left = true
		}
	}
}

var errModel = errors.New("the call failed")

// call is one call of the worker to the server. It may fail before or after it
// had its effect, be without an answer, or be the last thing that its worker does.
func (p *process) call(ctx context.Context, step, about string, effect func()) (err error) {
	defer func() { p.server.tell("worker %d: %s %s: %v", p.number, step, about, err) }()
	s := p.server
	s.mu.Lock()
	random, ok := p.randoms[about]
	if !ok {
		random = s.randomOf(fmt.Sprint(p.number, about))
		p.randoms[about] = random
	}
	calm := s.plan.calm()
	crash, failure := random.Float64(), random.Float64()
	before, after := latency(random), latency(random)
	epoch := s.epoch
	s.mu.Unlock()

	if crash < s.plan.crashes && !calm {
		before = 0
		p.perish()
	}
	if err := p.sleep(ctx, before); err != nil {
		return err
	}
	s.mu.Lock()
	if p.dead {
		s.mu.Unlock()
		runtime.Goexit()
	}
	fails := !calm && failure < s.plan.failures
	switch {
	case epoch != s.epoch || time.Now().Before(s.down):
		fails, failure = true, 0 // no effect
	case fails:
		failure /= s.plan.failures
	}
	if fails {
		s.blame(about)
	}
	if !fails || failure > 0.5 {
		effect()
	}
	s.mu.Unlock()
	if fails && failure > 0.9 {
		<-ctx.Done() // no answer
		p.step()
		return context.Cause(ctx)
	}
	if crash > 1-s.plan.crashes && !calm {
		p.perish()
	}
	if err := p.sleep(ctx, after); err != nil {
		s.mu.Lock()
		s.blame(about)
		s.mu.Unlock()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fails || epoch != s.epoch {
		s.blame(about)
		return errModel
	}
	return nil
}

func latency(random *rand.Rand) time.Duration {
	return 1 + time.Duration(random.Int64N(int64(5*time.Millisecond)))
}

// blame excuses what follows from a call that failed. Needs mu.
func (s *server) blame(about string) {
	if f, ok := s.facts[about]; ok {
		f.unheard++
	}
}

// step lets nothing happen in a process that is dead.
func (p *process) step() {
	p.server.mu.Lock()
	dead := p.dead
	p.server.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
}

func (p *process) perish() {
	p.server.mu.Lock()
	p.die()
	p.server.mu.Unlock()
	p.step()
}

func (p *process) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.step()
		return nil
	case <-ctx.Done():
		p.step()
		return context.Cause(ctx)
	}
}

// next is the lane of a process.
func (p *process) next(ctx context.Context, _ int) ([]*job, error) {
	s := p.server
	for {
		_ = p.sleep(ctx, 1+time.Duration(p.number>>8)) // no two at the same instant
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		got, next := s.claim(p)
		wake := s.wake
		s.mu.Unlock()
		if len(got) > 0 {
			return got, nil
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (h *handed) Context(ctx context.Context) context.Context { return ctx }

func (h *handed) Body() []byte { return nil }

// Done is honoured whoever has the message by now.
func (h *handed) Done(ctx context.Context) error {
	return h.process.call(ctx, "ack", h.key, func() {
		s := h.server
		if len(s.books.outcomesOf(h.key)) == 0 {
			s.complain("%s: acknowledged without an outcome", h.key)
		}
		delete(s.messages, h.key)
		s.changed()
	})
}

// Retry is honoured whoever has the message by now, as the real server does.
func (h *handed) Retry(ctx context.Context, after time.Duration) error {
	return h.process.call(ctx, "nak", h.key, func() {
		m, ok := h.server.messages[h.key]
		if !ok || m.holder == nil {
			return
		}
		if m.holder != h {
			h.server.facts[h.key].unheard++
		}
		m.holder, m.due = nil, time.Now().Add(after)
		h.server.changed()
	})
}

func (h *handed) KeepAlive() error {
	h.process.step()
	s := h.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.down) || !s.plan.calm() && h.beats.Float64() < s.plan.failures {
		return errModel
	}
	if m, ok := s.messages[h.key]; ok && m.holder == h {
		h.expires = time.Now().Add(modelAckWait)
	}
	return nil
}

// The records, as a process reads and writes them.

func (p *process) Record(ctx context.Context, o queue.Outcome) (stored queue.Outcome, err error) {
	key := keyOf(o.Batch, o.ID, o.Gen)
	err = p.call(ctx, "outcome", key, func() {
		if first := p.server.books.outcomesOf(key); len(first) > 0 {
			stored = first[0]
			return
		}
		p.server.books.outcomes = append(p.server.books.outcomes, o)
		stored = o
	})
	return stored, err
}

func (p *process) Outcome(ctx context.Context, batch, id string, gen int) (o queue.Outcome, err error) {
	key, missing := keyOf(batch, id, gen), false
	err = p.call(ctx, "read outcome", key, func() {
		first := p.server.books.outcomesOf(key)
		if missing = len(first) == 0; !missing {
			o = first[0]
		}
	})
	if err == nil && missing {
		err = queue.ErrNone
	}
	return o, err
}

func (p *process) Bury(ctx context.Context, letter queue.DeadLetter) error {
	key := requestKey(letter.Request)
	return p.call(ctx, "dead letter", key, func() {
		if !slices.ContainsFunc(p.server.books.letters, func(l queue.DeadLetter) bool { return requestKey(l.Request) == key }) {
			p.server.books.letters = append(p.server.books.letters, letter)
		}
	})
}

func (p *process) Ledger(ctx context.Context, r queue.Request) (e queue.Entry, ok bool, err error) {
	err = p.call(ctx, "read ledger", requestKey(r), func() { e, ok = p.server.books.ledger[requestKey(r)] })
	if err != nil {
		return queue.Entry{}, false, err
	}
	return e, ok, nil
}

func (p *process) WriteLedger(ctx context.Context, r queue.Request, e queue.Entry) error {
	key := requestKey(r)
	return p.call(ctx, "ledger", key, func() {
		f := p.server.facts[key]
		if e.Deaths > f.deaths+f.unheard {
			p.server.complain("%s: %d deaths of nobody", key, e.Deaths-f.deaths)
		}
		p.server.books.ledger[key] = e
	})
}

func (p *process) ClearLedger(ctx context.Context, r queue.Request) error {
	return p.call(ctx, "clear ledger", requestKey(r), func() { delete(p.server.books.ledger, requestKey(r)) })
}

func (p *process) Cancelled(ctx context.Context, batch string) (mark queue.Cancellation, ok bool, err error) {
	err = p.call(ctx, "ask", "cancelled "+batch, func() {
		var c cancelledAt
		c, ok = p.server.cancelled[batch]
		mark = queue.Cancellation{Gen: c.gen, At: c.at}
	})
	return mark, ok && err == nil, err
}

func (p *process) Paused(ctx context.Context, target string) (_ queue.Pause, ok bool, err error) {
	err = p.call(ctx, "ask", "paused "+target, func() { _, ok = p.server.paused[target] })
	return queue.Pause{}, ok && err == nil, err
}

func (p *process) Announce(ctx context.Context, w queue.Presence) error {
	return p.call(ctx, "announce", "announce", func() { p.server.books.present[w.Worker] = true })
}

func (p *process) Presences(ctx context.Context, _ func(queue.Presence, time.Duration), _ func(string)) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (p *process) Withdraw(ctx context.Context, worker string) error {
	return p.call(ctx, "withdraw", "withdraw", func() { delete(p.server.books.present, worker) })
}
