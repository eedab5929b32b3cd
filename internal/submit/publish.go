package submit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/queue"
)

// How often a submitter notes how far it has come: after so many requests, or
// so much time.
const (
	checkpointEvery = 1000
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
	if s.total.Load() != unknown {
		return nil
	}
	publisher := s.conn.Publisher(s.batch.Partition)
	total, noted := 0, time.Now()
	for request, err := range s.requests() {
		if err != nil {
			return s.interrupted(ctx, publisher, err)
		}
		total = request.Seq
		if request.Seq <= s.batch.Accepted || s.tally.has(request.Seq) {
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
	s.total.Store(int64(total))
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
	return s.conn.WriteBatch(ctx, s.batch)
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

// requestID is the id of a request, without a pointer.
type requestID [26]byte

// requests are the requests of the list in its order, each line's first
// occurrence only, numbered from 1. They are the same however often they are
// read; where the list is not, the last thing returned is ErrListChanged.
func (s *Submission) requests() iter.Seq2[queue.Request, error] {
	return func(yield func(queue.Request, error) bool) {
		list, err := s.options.open()
		if err != nil {
			yield(queue.Request{}, err)
			return
		}
		defer list.Close() //nolint:errcheck // only read
		seen := make(map[requestID]struct{})
		now := time.Now().UTC()
		hash := sha256.New()
		for line, err := range imagelist.Read(io.TeeReader(list, hash), s.options.List) {
			if err != nil {
				yield(queue.Request{}, fmt.Errorf("%s: %w", s.options.File, err))
				return
			}
			request := s.request(line, now)
			id := requestID([]byte(request.ID))
			if _, twice := seen[id]; twice {
				continue
			}
			seen[id] = struct{}{}
			request.Seq = len(seen)
			if !yield(request, nil) {
				return
			}
		}
		if hex.EncodeToString(hash.Sum(nil)) != s.batch.List {
			yield(queue.Request{}, fmt.Errorf("%s: %w", s.options.File, ErrListChanged))
		}
	}
}

// request is what one line asks for. A line that cannot be read is a request
// too: it ends dead, and so the failed list is whole wherever it is asked for.
func (s *Submission) request(line imagelist.Line, now time.Time) queue.Request {
	r := queue.Request{
		Batch:       s.batch.ID,
		Line:        line.Text,
		Timeout:     queue.Seconds(s.options.Timeout),
		SubmittedAt: now,
	}
	if line.Err == nil {
		r.Reference, r.Digest, r.Platforms = line.Reference, line.Digest, s.options.Platforms
		return r.Sealed()
	}
	r.Problem = line.Err.Error()
	var bad *imagelist.LineError
	if errors.As(line.Err, &bad) {
		r.Problem = bad.Reason
	}
	return r.Sealed()
}

// BadLines tells OnBadLine of each line that cannot be read.
func (s *Submission) BadLines() error {
	if s.options.OnBadLine == nil {
		return nil
	}
	for line, err := range s.options.Lines() {
		if err != nil {
			return err
		}
		var bad *imagelist.LineError
		if errors.As(line.Err, &bad) {
			s.options.OnBadLine(bad)
		}
	}
	return nil
}
