package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// book is a queue in memory, as workers see it. Every step they make is
// written down, in order.
type book struct {
	// before and after, when set, are called around each step. An error of
	// before is the step's, which then has no effect.
	before func(ctx context.Context, step string) error
	after  func(step string)

	mu        sync.Mutex
	steps     []string
	outcomes  map[string]queue.Outcome
	letters   map[string]queue.DeadLetter
	ledger    map[string]queue.Entry
	cancelled int             // generations, from the first on
	paused    map[string]bool // lanes and hosts
	present   map[string]queue.Presence
	announced []queue.Presence
	ears      map[int]*ear
}

// ear is a worker that listens to the others.
type ear struct {
	each func(queue.Presence, time.Duration)
	gone func(string)
}

func newBook() *book {
	return &book{
		outcomes: make(map[string]queue.Outcome),
		letters:  make(map[string]queue.DeadLetter),
		ledger:   make(map[string]queue.Entry),
		paused:   make(map[string]bool),
		present:  make(map[string]queue.Presence),
		ears:     make(map[int]*ear),
	}
}

func keyOf(batch, id string, gen int) string { return fmt.Sprintf("%s.%s.%d", batch, id, gen) }

func requestKey(r queue.Request) string { return keyOf(r.Batch, r.ID, r.Gen) }

// do makes a step.
func (b *book) do(ctx context.Context, step string, effect func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if b.before != nil {
		if err := b.before(ctx, step); err != nil {
			return err
		}
	}
	b.mu.Lock()
	b.steps = append(b.steps, step)
	err := effect()
	b.mu.Unlock()
	if b.after != nil {
		b.after(step)
	}
	return err
}

func (b *book) Record(ctx context.Context, o queue.Outcome) (stored queue.Outcome, err error) {
	err = b.do(ctx, "outcome "+string(o.Verdict), func() error {
		key := keyOf(o.Batch, o.ID, o.Gen)
		if first, ok := b.outcomes[key]; ok {
			o = first
		}
		b.outcomes[key] = o
		return nil
	})
	return o, err
}

func (b *book) Outcome(ctx context.Context, batch, id string, gen int) (o queue.Outcome, err error) {
	return o, b.do(ctx, "read outcome", func() error {
		stored, ok := b.outcomes[keyOf(batch, id, gen)]
		if !ok {
			return queue.ErrNone
		}
		o = stored
		return nil
	})
}

func (b *book) Bury(ctx context.Context, letter queue.DeadLetter) error {
	return b.do(ctx, "dead letter", func() error {
		key := requestKey(letter.Request)
		if _, ok := b.letters[key]; !ok {
			b.letters[key] = letter
		}
		return nil
	})
}

func (b *book) Ledger(ctx context.Context, r queue.Request) (e queue.Entry, ok bool, err error) {
	return e, ok, b.do(ctx, "read ledger", func() error {
		e, ok = b.ledger[requestKey(r)]
		return nil
	})
}

func (b *book) WriteLedger(ctx context.Context, r queue.Request, e queue.Entry) error {
	step := "ledger"
	if e.InFlight {
		step = "ledger: in flight"
	}
	return b.do(ctx, step, func() error {
		b.ledger[requestKey(r)] = e
		return nil
	})
}

func (b *book) ClearLedger(ctx context.Context, r queue.Request) error {
	return b.do(ctx, "clear ledger", func() error {
		delete(b.ledger, requestKey(r))
		return nil
	})
}

// ask is a question that is no step of a delivery.
func (b *book) ask(ctx context.Context, question string, answer func()) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if b.before != nil {
		if err := b.before(ctx, question); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	answer()
	return nil
}

func (b *book) Cancelled(ctx context.Context, _ string) (mark queue.Cancellation, ok bool, err error) {
	return mark, ok, b.ask(ctx, "ask cancelled", func() { mark.Gen, ok = b.cancelled-1, b.cancelled > 0 })
}

func (b *book) Paused(ctx context.Context, target string) (p queue.Pause, ok bool, err error) {
	return p, ok, b.ask(ctx, "ask paused", func() { ok = b.paused[target] })
}

func (b *book) Announce(ctx context.Context, p queue.Presence) error {
	if err := b.ask(ctx, "announce", func() {
		b.present[p.Worker] = p
		b.announced = append(b.announced, p)
	}); err != nil {
		return err
	}
	for _, e := range b.listening() {
		e.each(p, 0)
	}
	return nil
}

func (b *book) Withdraw(ctx context.Context, worker string) error {
	if err := b.ask(ctx, "withdraw", func() { delete(b.present, worker) }); err != nil {
		return err
	}
	for _, e := range b.listening() {
		e.gone(worker)
	}
	return nil
}

func (b *book) Presences(ctx context.Context, each func(queue.Presence, time.Duration), gone func(string)) error {
	var standing []queue.Presence
	var id int
	if err := b.ask(ctx, "hear", func() {
		id = len(b.ears)
		b.ears[id] = &ear{each, gone}
		standing = slices.Collect(maps.Values(b.present))
	}); err != nil {
		return err
	}
	for _, p := range standing {
		each(p, time.Second)
	}
	<-ctx.Done()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ears[id] = nil
	return context.Cause(ctx)
}

func (b *book) listening() []*ear {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Values(b.ears)), func(e *ear) bool { return e == nil })
}

// saidBy are the announcements of a worker, in order.
func (b *book) saidBy(worker string) []queue.Presence {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.announced), func(p queue.Presence) bool { return p.Worker != worker })
}

func (b *book) made() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.steps)
}

// parcel is one delivery out of a book.
type parcel struct {
	book *book

	mu    sync.Mutex
	beats int
	deaf  bool // signs of life do not get through
	acked bool
}

func (p *parcel) Context(ctx context.Context) context.Context { return ctx }

func (p *parcel) Done(ctx context.Context) error {
	return p.book.do(ctx, "ack", func() error {
		p.acked = true
		return nil
	})
}

func (p *parcel) Retry(ctx context.Context, after time.Duration) error {
	return p.book.do(ctx, "nak "+after.String(), func() error { return nil })
}

func (p *parcel) Body() []byte { return []byte("the message") }

func (p *parcel) KeepAlive() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beats++
	if p.deaf {
		return errors.New("no connection")
	}
	return nil
}

func (p *parcel) beaten() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beats
}

type signerFunc func(ctx context.Context, r sign.Request) (sign.Result, error)

func (f signerFunc) Sign(ctx context.Context, r sign.Request) (sign.Result, error) { return f(ctx, r) }

// testRequest is a request as a submitter publishes it.
func testRequest() queue.Request {
	return queue.Request{
		Batch: "b", Seq: 7, Line: "r.example/app:1 # mine", Reference: "r.example/app:1",
		Timeout: queue.Seconds(time.Minute), SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}.Sealed()
}

// testWorker is a worker of the book without jitter.
func testWorker(b *book, s signerFunc) *Worker {
	o := DefaultOptions()
	o.Name = "w1"
	w := newWorker(b, s, o, zap.NewNop())
	w.random = func() float64 { return 0.5 }
	return w
}

// jobOf is a delivery of a request out of a book.
func jobOf(r queue.Request, delivered int, p *parcel) *job {
	j := newJob(&queue.Delivery{Request: r, Delivered: delivered, StoredAt: time.Now(), Lane: queue.LaneBulk})
	j.delivery = p
	return j
}

// deliver hands one delivery of a request to a worker and returns when it has
// done with it.
func deliver(t *testing.T, w *Worker, b *book, r queue.Request, delivered int) *parcel {
	t.Helper()
	p := &parcel{book: b}
	w.handle(t.Context(), t.Context(), jobOf(r, delivered, p))
	return p
}
