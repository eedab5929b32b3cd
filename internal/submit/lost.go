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
// requests that it had acknowledged, as it may in a power loss: it is asked now
// and then whether it holds any of the batch, and what then has neither a place
// in the queue nor an outcome is published again. It returns with errComplete
// or the end of ctx.
func (s *Submission) replaceLost(ctx context.Context) error {
	every := s.options.CheckEvery
	if every <= 0 {
		every = defaultCheckEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if waiting, err := s.conn.Waiting(ctx, s.batch.ID); err == nil && waiting == 0 {
			if err := s.publishLost(ctx); err != nil {
				return err
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
	if err := s.catchUp(ctx); err != nil {
		return err
	}
	if err := s.endIfDone(); err != nil {
		return err
	}
	publisher := s.conn.Publisher(s.batch.Partition)
	for request, err := range s.requests() {
		if err != nil {
			return s.interrupted(ctx, publisher, err)
		}
		if s.tally.has(request.Seq) || s.hasUnreadable(ctx, request) {
			continue
		}
		if err := publisher.Publish(ctx, request); err != nil {
			return s.interrupted(ctx, publisher, err)
		}
	}
	if err := publisher.Flush(ctx); err != nil {
		return s.interrupted(ctx, publisher, err)
	}
	return s.endIfDone()
}

// hasUnreadable counts a request as dead whose outcome is stored and cannot be
// read: no other will ever take its place, and a follower is not told of it.
func (s *Submission) hasUnreadable(ctx context.Context, r queue.Request) bool {
	_, err := s.conn.Outcome(ctx, r.Batch, r.ID, r.Gen)
	if !errors.Is(err, queue.ErrUnreadable) {
		return false
	}
	s.add(queue.Outcome{
		ID: r.ID, Batch: r.Batch, Seq: r.Seq, Line: r.Line, Reference: r.Reference,
		Verdict: queue.Dead, Class: "internal", Error: err.Error(),
	})
	return true
}

// findPlaces reads the list for the seq of each request.
func (s *Submission) findPlaces() (map[requestID]int, error) {
	places := make(map[requestID]int)
	for request, err := range s.requests() {
		if err != nil {
			return nil, err
		}
		places[requestID([]byte(request.ID))] = request.Seq
	}
	return places, nil
}
