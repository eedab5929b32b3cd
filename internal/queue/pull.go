package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// pullPatience is how long beyond its own end a pull may stay without an
// answer before the connection is taken for interrupted.
const pullPatience = 2 * time.Second

// pullRequest is one request for messages to a consumer.
//
//	NoWait  Expires  it ends
//	true    0        at once, with what is there now
//	true    > 0      with what is there now, or else with the first that come in time
//	false   > 0      when Batch have come, or when time is up
type pullRequest struct {
	Batch   int           `json:"batch"`
	NoWait  bool          `json:"no_wait,omitempty"`
	Expires time.Duration `json:"expires,omitempty"`
}

// pullSpare is room for the statuses that come along with the messages of a pull.
const pullSpare = 8

// pull asks one consumer for messages. What came before an error or before the
// end of ctx is returned along with it: no message is left without a holder.
func (c *Conn) pull(ctx context.Context, stream, consumer string, request pullRequest) ([]*nats.Msg, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("pull from %s: %w", consumer, err)
	}
	inbox := c.nc.NewInbox()
	// A channel of our own: that of a synchronous subscription has room for half
	// a million messages.
	came := make(chan *nats.Msg, request.Batch+pullSpare)
	sub, err := c.nc.ChanSubscribe(inbox, came)
	if err != nil {
		return nil, fmt.Errorf("pull from %s: %w", consumer, err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // its only failure is a connection that is gone
	if err := c.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer, inbox, data); err != nil {
		return nil, fmt.Errorf("pull from %s: %w", consumer, err)
	}
	waiting, cancel := context.WithTimeout(ctx, request.Expires+pullPatience)
	defer cancel()
	msgs, err := receive(waiting, came, request.Batch)
	if waiting.Err() != nil && len(msgs) < request.Batch {
		msgs = append(msgs, c.handOver(ctx, sub, came)...)
	}
	if err != nil {
		return msgs, fmt.Errorf("pull from %s: %w", consumer, err)
	}
	return msgs, nil
}

// receive collects up to n messages until the server says that there are no
// more, or ctx ends.
func receive(ctx context.Context, came <-chan *nats.Msg, n int) ([]*nats.Msg, error) {
	msgs := make([]*nats.Msg, 0, n)
	for len(msgs) < n {
		select {
		case msg := <-came:
			if status := statusOf(msg); status != "" {
				return msgs, statusError(status, msg.Header.Get("Description"))
			}
			msgs = append(msgs, msg)
		case <-ctx.Done():
			return msgs, ctx.Err()
		}
	}
	return msgs, nil
}

// statusOf is the status that the server sends in place of a message, or "".
func statusOf(msg *nats.Msg) string {
	if len(msg.Data) > 0 {
		return ""
	}
	return msg.Header.Get("Status")
}

// statusError tells the ordinary ends of a pull (nothing there, time is up)
// from an interruption and from a request that is wrong.
func statusError(status, description string) error {
	switch status {
	case "404", "408":
		return nil
	case "503":
		return nats.ErrNoResponders
	case "409":
		return fmt.Errorf("%w: %s", errInterrupted, description)
	}
	return fmt.Errorf("refused: %s %s", status, description)
}

// handOver ends a pull that the server may still be answering and returns what
// it has sent. Once it knows that nobody listens it gives messages to others;
// those sent before that are in front of its answer to a ping. Without this
// they would be nobody's until their ack wait is over.
func (c *Conn) handOver(ctx context.Context, sub *nats.Subscription, came <-chan *nats.Msg) []*nats.Msg {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullPatience)
	defer cancel()
	// Drain, unlike Unsubscribe, keeps what arrives.
	if err := errors.Join(sub.Drain(), c.nc.FlushWithContext(ctx)); err != nil {
		return nil // the connection is gone, and with it what was on its way
	}
	var msgs []*nats.Msg
	for {
		select {
		case msg := <-came:
			if statusOf(msg) == "" {
				msgs = append(msgs, msg)
			}
		default:
			return msgs
		}
	}
}
