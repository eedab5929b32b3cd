package submit

import (
	"context"
	"errors"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// defaultCheckEvery is how often a waiting batch is checked for lost requests.
const defaultCheckEvery = 30 * time.Second

// replaceLost sees to it that a batch comes to its end although the server lost
// requests that it had acknowledged, as it may in a power loss, or whoever asked
// for a retry died before it was published: the server is asked now and then
// whether it holds any of the batch, and what then has neither a place in the
// queue nor an outcome is published again. It returns with errComplete or the
// end of ctx.
func (s *Submission) replaceLost(ctx context.Context) error {
	every := s.options.CheckEvery
	if every <= 0 {
		every = defaultCheckEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for moved := s.course.movement(); ; {
		if !moved() {
			if waiting, err := s.conn.Waiting(ctx, s.batch.ID); err == nil && waiting == 0 {
				if err := s.publishLost(ctx); err != nil {
					return err
				}
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// publishLost publishes the requests that have no outcome; none of them is in
// the queue. An outcome is recorded before its request leaves the queue, so all
// outcomes there are can be read now.
func (s *Submission) publishLost(ctx context.Context) error {
	if err := s.course.catchUp(ctx); err != nil {
		return err
	}
	if err := s.course.endIfComplete(ctx); err != nil {
		return err
	}
	publisher := s.conn.Publisher(s.batch.Partition)
	for request, err := range s.requests() {
		if err != nil {
			return s.interrupted(ctx, publisher, err)
		}
		gen, due := s.course.tally.due(request.Seq, request.ID)
		if !due {
			continue
		}
		request.Gen = gen
		if has, err := s.course.hasOutcome(ctx, request); err != nil {
			return s.interrupted(ctx, publisher, err)
		} else if has {
			continue
		}
		if err := publisher.Publish(ctx, request); err != nil {
			return s.interrupted(ctx, publisher, err)
		}
	}
	if err := publisher.Flush(ctx); err != nil {
		return s.interrupted(ctx, publisher, err)
	}
	return s.course.endIfComplete(ctx)
}

// hasOutcome looks once more whether a request that seems to be lost has an
// outcome. One that cannot be read counts as dead: no other will ever take its
// place, and a follower is not told of it.
func (c *course) hasOutcome(ctx context.Context, r queue.Request) (bool, error) {
	outcome, err := c.conn.Outcome(ctx, r.Batch, r.ID, r.Gen)
	switch {
	case errors.Is(err, queue.ErrUnreadable):
		outcome = queue.Outcome{
			ID: r.ID, Gen: r.Gen, Batch: r.Batch, Seq: r.Seq, Line: r.Line, Reference: r.Reference,
			Verdict: queue.Dead, Class: "internal", Error: err.Error(),
		}
	case err != nil:
		return false, nil //nolint:nilerr // not known: publishing it twice does no harm
	}
	_, err = c.tally.add(outcome)
	return true, err
}
