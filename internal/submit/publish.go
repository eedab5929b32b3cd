package submit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// How often a submitter notes how far it has come: after so many requests, or
// so much time.
const (
	checkpointEvery = 10_000
	checkpointAfter = time.Second
)

// PublishError says how far the publishing of a batch came before it failed.
type PublishError struct {
	Batch    string
	Accepted int
	Err      error
}

func (e *PublishError) Error() string {
	return fmt.Sprintf("batch %s: %d requests were accepted and stay in the queue: %v", e.Batch, e.Accepted, e.Err)
}

func (e *PublishError) Unwrap() error { return e.Err }

// publish publishes the requests that the server is not known to have, and
// records how far it came.
func (s *Submission) publish(ctx context.Context) error {
	if s.course.total.Load() != unknown {
		return nil
	}
	publisher := s.conn.Publisher(s.batch.Partition)
	total, noted := 0, time.Now()
	for request, err := range ahead(s.requests()) {
		if err != nil {
			return s.interrupted(ctx, publisher, err)
		}
		total = request.Seq
		if request.Seq <= s.batch.Accepted || s.course.tally.known(request.Seq, request.ID) {
			continue
		}
		if err := publisher.Publish(ctx, request); err != nil {
			return s.interrupted(ctx, publisher, err)
		}
		s.published.Store(int64(request.Seq))
		if accepted := publisher.Accepted(); accepted >= s.batch.Accepted+checkpointEvery || (accepted > s.batch.Accepted && time.Since(noted) > checkpointAfter) {
			noted = time.Now()
			// Only a hint for a resumption: without it more is published twice,
			// which changes nothing.
			_ = s.note(ctx, accepted)
		}
	}
	if err := publisher.Flush(ctx); err != nil {
		return s.interrupted(ctx, publisher, err)
	}
	s.published.Store(int64(total))
	s.batch.Total, s.batch.Published = total, true
	if err := s.notePatiently(ctx, total); err != nil {
		s.batch.Total, s.batch.Published = 0, false
		return s.interrupted(ctx, publisher, err)
	}
	s.course.total.Store(int64(total))
	if s.options.OnPublished != nil {
		s.options.OnPublished(total)
	}
	return nil
}

// notePatience bounds the end of an interrupted submission.
const notePatience = 5 * time.Second

// interrupted waits for the answers to what is on its way, notes how far the
// publishing came and says so.
func (s *Submission) interrupted(ctx context.Context, p *queue.Publisher, err error) error {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), notePatience)
	defer cancel()
	_ = p.Flush(last) // how far it came is in Accepted, and why it went no further in err
	accepted := max(p.Accepted(), s.batch.Accepted)
	return &PublishError{Batch: s.batch.ID, Accepted: accepted, Err: errors.Join(err, s.note(last, accepted))}
}

// note records up to where the server has accepted.
func (s *Submission) note(ctx context.Context, accepted int) error {
	s.batch.Accepted = accepted
	return amend(ctx, s.conn, s.batch, func(record *queue.Batch) {
		record.Accepted = s.batch.Accepted
		if s.batch.Published {
			record.Total, record.Published = s.batch.Total, true
		}
	})
}

// How often and how long the note that all is published is tried: as long as
// publishing itself would be.
const (
	notePause     = time.Second
	noteEndurance = 2 * time.Minute
)

// notePatiently notes how far the publishing came, through a loss of the server.
func (s *Submission) notePatiently(ctx context.Context, accepted int) error {
	enduring, cancel := context.WithTimeout(ctx, noteEndurance)
	defer cancel()
	for {
		err := s.note(enduring, accepted)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(notePause):
		case <-enduring.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
