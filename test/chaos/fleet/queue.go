package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Stored is one message as its stream has it.
type Stored struct {
	Subject string
	Data    []byte
	At      time.Time
}

// queueView looks at the streams themselves, with nothing of the project's own
// code in between, over a link of its own.
type queueView struct {
	nc        *nats.Conn
	js        jetstream.JetStream
	traceFile *os.File
}

func newQueueView(url string) (*queueView, error) {
	nc, err := nats.Connect(url, nats.Name("chaos"), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &queueView{nc: nc, js: js}, nil
}

func (q *queueView) close() error {
	q.nc.Close()
	if q.traceFile == nil {
		return nil
	}
	return q.traceFile.Close()
}

// JetStream is the queue as nats.go shows it.
func (f *Fleet) JetStream() jetstream.JetStream { return f.conn.js }

// Stored reads what a stream holds under a filter, in its order.
func (f *Fleet) Stored(ctx context.Context, stream, filter string) ([]Stored, error) {
	s, err := f.conn.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", stream, err)
	}
	// By sequence, so that the harness needs no consumer on a work queue.
	var all []Stored
	for next := uint64(1); ; {
		msg, err := s.GetMsg(ctx, next, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", stream, err)
		}
		all = append(all, Stored{Subject: msg.Subject, Data: msg.Data, At: msg.Time})
		next = msg.Sequence + 1
	}
}

// Count returns how many messages a stream holds under a filter.
func (f *Fleet) Count(ctx context.Context, stream, filter string) (int, error) {
	s, err := f.conn.js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, count := range info.State.Subjects {
		n += int(count)
	}
	return n, nil
}

// Left returns how many requests of a batch are in the queue.
func (f *Fleet) Left(ctx context.Context, batch string) (int, error) {
	return f.Count(ctx, "SIGN_REQUESTS", "sign.request.*.*."+batch)
}

// Done returns how many outcomes a batch has.
func (f *Fleet) Done(ctx context.Context, batch string) (int, error) {
	return f.Count(ctx, "SIGN_OUTCOMES", "sign.outcome."+batch+".>")
}

// Limit bounds the bytes of a stream; 0 leaves it as much room as it uses.
// It returns the limit that there was. A queue under torment is asked again.
func (f *Fleet) Limit(ctx context.Context, stream string, bytes int64) (before int64, err error) {
	known := false
	err = Await(ctx, limitPatience, "a new limit of "+stream, func(ctx context.Context) (bool, error) {
		s, err := f.conn.js.Stream(ctx, stream)
		if err != nil {
			return false, err
		}
		config := s.CachedInfo().Config
		if !known { // later there may be the new one, whose answer was lost
			before, known = config.MaxBytes, true
		}
		if config.MaxBytes = bytes; bytes == 0 {
			config.MaxBytes = max(1, int64(s.CachedInfo().State.Bytes))
		}
		if _, err = f.conn.js.UpdateStream(ctx, config); err != nil {
			return false, err
		}
		f.Log("%s may hold %d bytes (%d are used)", stream, config.MaxBytes, s.CachedInfo().State.Bytes)
		return true, nil
	})
	return before, err
}

// limitPatience bounds the wait for a queue that takes a limit.
const limitPatience = time.Minute

// Streams are the names of all streams, in order.
func (f *Fleet) Streams(ctx context.Context) (all []string, err error) {
	err = Await(ctx, limitPatience, "the names of all streams", func(ctx context.Context) (bool, error) {
		found := map[string]bool{}
		names := f.conn.js.StreamNames(ctx)
		for name := range names.Name() {
			found[name] = true
		}
		all = slices.Sorted(maps.Keys(found))
		return len(all) > 0, names.Err()
	})
	return all, err
}

// Await asks until a condition holds, for as long as patience lasts. Errors of
// the question are those of a queue under torment: they are asked again.
func Await(ctx context.Context, patience time.Duration, what string, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		try, cancelTry := context.WithTimeout(ctx, 5*time.Second)
		ok, err := holds(try)
		cancelTry()
		if err == nil && ok {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx)), last)
		}
	}
}
