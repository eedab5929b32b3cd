package worker

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
)

// errCancelled is the cause of the end of work on an image whose batch was cancelled.
var errCancelled = errors.New("the batch was cancelled")

// control is what people ask of a worker by way of the queue: to leave a batch,
// a lane or a registry alone. While the queue does not answer, what it said
// last holds.
type control struct {
	log *zap.Logger
	// cancelled is by batch: how many of its generations, from the first on, are cancelled.
	cancelled *answers[int]
	// paused is by lane and by host.
	paused *answers[bool]
}

func newControl(r records, log *zap.Logger) *control {
	return &control{
		log: log,
		cancelled: newAnswers(func(ctx context.Context, batch string) (int, error) {
			mark, ok, err := r.Cancelled(ctx, batch)
			if err != nil || !ok {
				return 0, err
			}
			return mark.Gen + 1, nil
		}),
		paused: newAnswers(func(ctx context.Context, target string) (bool, error) {
			_, ok, err := r.Paused(ctx, target)
			return ok, err
		}),
	}
}

// isCancelled reports whether a request belongs to what was cancelled.
func (c *control) isCancelled(ctx context.Context, r queue.Request) bool {
	generations, err := c.cancelled.of(ctx, r.Batch)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("cannot ask whether a batch is cancelled, going on as before", zap.String("batch", r.Batch), zap.Error(err))
	}
	return r.Gen < generations
}

// isPaused reports whether a lane or the host of a registry is paused.
func (c *control) isPaused(ctx context.Context, target string) bool {
	paused, err := c.paused.of(ctx, target)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("cannot ask what is paused, going on as before", zap.String("target", target), zap.Error(err))
	}
	return paused
}
