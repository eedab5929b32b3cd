package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// answerPatience is how long one question to the server may stay without an
// answer. When a connection is lost, questions on their way get none ever.
const answerPatience = 5 * time.Second

// ask bounds one question to the server. Its client does so only where ctx has no
// deadline at all.
func ask(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, answerPatience)
}

// outagePatience is how long the server may be of no use on a connection that
// stands before the caller is told. A lost connection is waited out without an end.
const outagePatience = 30 * time.Second

// ErrNotSetUp says that the server has no streams for this queue.
var ErrNotSetUp = errors.New("the NATS server has no Signfleet streams: make them with sign-worker setup and the operator's credentials")

// errInterrupted says that the server ended a pull before its time: it shuts
// down, the consumer moved, or too many are pulling.
var errInterrupted = errors.New("pull interrupted")

// missing turns the server's several ways to say "no such stream" into ErrNotSetUp.
func (c *Conn) missing(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrBucketNotFound) ||
		errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("%w (looked for those of stream-prefix %s: %w)", ErrNotSetUp, c.names.stream, err)
	}
	return err
}

// tooLarge turns the client's and the server's ways to say so into ErrTooLarge.
func tooLarge(err error) error {
	var api *jetstream.APIError
	if errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &api) &&
		(api.ErrorCode == codeMessageTooLarge || api.ErrorCode == codeHeaderTooLarge) {
		return fmt.Errorf("%w (%w)", ErrTooLarge, err)
	}
	return err
}

// passing reports whether err is of the kind that a restart of the server, an
// election in a cluster or a lost connection brings: another try may succeed.
func passing(err error) bool {
	for _, kind := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, errInterrupted,
		nats.ErrNoResponders, jetstream.ErrNoStreamResponse, jetstream.ErrJetStreamNotEnabled,
		nats.ErrDisconnected, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded,
		jetstream.ErrAsyncPublishTimeout, jetstream.ErrTooManyStalledMsgs,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.Code >= 500
}

// explain turns an error into those of this room, and looks closer when nobody
// answered: a question that this user may not ask is a *DeniedError, a stream or
// consumer that is not there is ErrNotSetUp, one without a leader just now is a
// passing matter.
func (c *Conn) explain(ctx context.Context, stream, consumer string, err error) error {
	if passing(err) {
		if denied := c.denied.of(stream); denied != nil {
			return denied
		}
	}
	if !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, jetstream.ErrNoStreamResponse) {
		return tooLarge(c.missing(err))
	}
	ctx, cancel := ask(ctx)
	defer cancel()
	_, found := c.js.Stream(ctx, stream)
	if found == nil && consumer != "" {
		_, found = c.js.Consumer(ctx, stream, consumer)
	}
	if found = c.missing(found); errors.Is(found, ErrNotSetUp) {
		return found
	}
	return err
}

// insist asks a question again while it ends with a passing error: a cluster that
// has just lost a server answers none for some seconds.
func insist[T any](ctx context.Context, c *Conn, question func() (T, error)) (T, error) {
	outage := outage{conn: c}
	for {
		answer, err := question()
		if err == nil || !passing(err) {
			return answer, err
		}
		if err := outage.sitOut(ctx, err); err != nil {
			return answer, err
		}
	}
}

// outage is a stretch of failures with no success in between.
type outage struct {
	conn  *Conn
	since time.Time // zero when all is well
}

func (o *outage) over() { o.since = time.Time{} }

// sitOut waits before another try is made after a passing error. It returns
// that error when the connection stands and nothing has worked for too long.
func (o *outage) sitOut(ctx context.Context, err error) error {
	if o.since.IsZero() {
		o.since = time.Now()
	}
	for {
		if o.conn.nc.IsClosed() || time.Since(o.since) > outagePatience {
			return err
		}
		select {
		case <-time.After(o.conn.options.PollInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if o.conn.nc.IsConnected() {
			return nil
		}
		o.since = time.Now()
	}
}
