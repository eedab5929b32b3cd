package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"
)

// maxPending is how many publishes may be without an answer at once.
const maxPending = 1024

// publishPatience is how long one publish is repeated while the stream is full
// or the server is away.
const publishPatience = 2 * time.Minute

// Publisher puts the requests of one batch into its partition. One goroutine
// calls it.
type Publisher struct {
	conn      *Conn
	partition int

	pending []pendingPublish // in order of publishing

	mu    sync.Mutex
	acked int // highest seq up to which all are accepted
}

type pendingPublish struct {
	seq    int
	msg    *nats.Msg
	end    func(error)            // of its span
	future jetstream.PubAckFuture // nil once it has failed
	err    error                  // of the last try
}

// Publisher returns a publisher into a partition of the bulk lane.
func (c *Conn) Publisher(partition int) *Publisher {
	return &Publisher{conn: c, partition: partition}
}

// Publish hands one request to the server without waiting for its answer,
// unless too many answers are outstanding. Publishing the same request again
// within the duplicate window changes nothing. Requests are published in the
// order of their seq. One that is ErrTooLarge is not published; the others may go on.
func (p *Publisher) Publish(ctx context.Context, r Request) error {
	if ctx.Err() != nil {
		return fmt.Errorf("publish request %d: %w", r.Seq, context.Cause(ctx))
	}
	ctx, end := p.conn.tell.publishing(ctx, p.conn.names, r)
	msg, err := p.conn.names.requestMessage(ctx, p.conn.names.bulkSubject(p.partition, r.Batch), r)
	if err != nil {
		end(err)
		return fmt.Errorf("publish request %d: %w", r.Seq, err)
	}
	if len(p.pending) >= maxPending {
		if err := p.settle(ctx, maxPending/2); err != nil {
			end(err)
			return err
		}
	}
	// An error here means not even sent (no connection, a full buffer): settle
	// sends it again, unless that cannot help.
	future, err := p.conn.js.PublishMsgAsync(msg)
	if err = tooLarge(err); errors.Is(err, ErrTooLarge) {
		end(err)
		return fmt.Errorf("publish request %d: %w", r.Seq, err)
	}
	p.pending = append(p.pending, pendingPublish{seq: r.Seq, msg: msg, end: end, future: future, err: err})
	return nil
}

// PublishEvent puts one request into the event lane, on behalf of a source of
// events, and returns when the server has accepted it. A request that is there
// already, or was within the duplicate window, is not stored again.
func (c *Conn) PublishEvent(ctx context.Context, source string, r Request) (err error) {
	if !ValidName(source) {
		return fmt.Errorf("publish an event: source %q is not a name", source)
	}
	ctx, end := c.tell.publishing(ctx, c.names, r)
	defer func() { end(err) }()
	msg, err := c.names.requestMessage(ctx, c.names.eventSubject(source, r.Batch), r)
	if err != nil {
		return fmt.Errorf("publish request %s: %w", r.ID, err)
	}
	asked, done := c.command(ctx, answerPatience, msg.Subject)
	defer done()
	if _, err := c.js.PublishMsg(asked, msg); err != nil {
		err = c.explain(ctx, c.names.requests, "", refused(asked, err))
		if isStoreFailed(err) {
			err = fmt.Errorf("%w (%w)", ErrFull, err)
		}
		return fmt.Errorf("publish request %s: %w", r.ID, err)
	}
	c.tell.published(ctx)
	return nil
}

// requestMessage is the message of a request.
func (n names) requestMessage(ctx context.Context, subject string, r Request) (*nats.Msg, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(subject)
	msg.Data = data
	msg.Header.Set(jetstream.MsgIDHeader, r.messageID())
	msg.Header.Set(jetstream.ExpectedStreamHeader, n.requests)
	propagation.TraceContext{}.Inject(ctx, headerCarrier(msg.Header))
	return msg, nil
}

// Flush waits until the server has accepted all that was published. A full
// stream (ErrFull) or a lost connection is waited out for a while; the error
// then names the first request that was not accepted. Flush may be called again.
func (p *Publisher) Flush(ctx context.Context) error { return p.settle(ctx, len(p.pending)) }

// Accepted is the seq up to which every request is known to be stored.
func (p *Publisher) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// settle waits for the answers to the oldest n publishes.
func (p *Publisher) settle(ctx context.Context, n int) error {
	for range n {
		oldest := &p.pending[0]
		err := p.await(ctx, oldest)
		oldest.end(err)
		if err != nil {
			return fmt.Errorf("publish request %d: %w", oldest.seq, err)
		}
		p.conn.tell.published(ctx)
		p.mu.Lock()
		p.acked = oldest.seq
		p.mu.Unlock()
		p.pending = p.pending[1:]
	}
	return nil
}

// await waits for the answer to one publish and repeats it while the server
// cannot take it: the message id makes that harmless.
func (p *Publisher) await(ctx context.Context, pending *pendingPublish) error {
	patient, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	if pending.future != nil {
		select {
		case <-pending.future.Ok():
			return nil
		case pending.err = <-pending.future.Err():
			pending.future = nil // it tells its error only once
		case <-patient.Done():
			return errors.Join(context.Cause(patient), pending.err)
		}
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		pending.err = p.conn.explain(patient, p.conn.names.requests, "", pending.err)
		if isStoreFailed(pending.err) {
			pending.err = fmt.Errorf("%w (%w)", ErrFull, pending.err)
		}
		if pending.err != nil && !passing(pending.err) {
			return pending.err
		}
		select {
		case <-time.After(pause):
		case <-patient.Done():
			return errors.Join(context.Cause(patient), pending.err)
		}
		if pending.err = p.send(patient, pending.msg); pending.err == nil {
			return nil
		}
	}
}

// send publishes once more and waits for the answer, which is not to come when
// the connection is lost meanwhile.
func (p *Publisher) send(ctx context.Context, msg *nats.Msg) error {
	ctx, cancel := ask(ctx)
	defer cancel()
	_, err := p.conn.js.PublishMsg(ctx, msg)
	return err
}

// headerCarrier lets trace context travel in NATS headers under the names of
// W3C Trace Context, which are case-sensitive there.
type headerCarrier nats.Header

func (h headerCarrier) Get(key string) string { return nats.Header(h).Get(key) }
func (h headerCarrier) Set(key, value string) { nats.Header(h).Set(key, value) }
func (h headerCarrier) Keys() []string {
	keys := make([]string, 0, len(h))
	for key := range h {
		keys = append(keys, key)
	}
	return keys
}
