package submit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/signfleet/signfleet/internal/queue"
)

// Report is how a batch ended, or how far it came. It must be closed.
type Report struct {
	Batch string `json:"batch"`
	Tally
	// NotDone is how many requests have no final outcome. With the list at hand
	// they are on the failed list, and without they are not.
	NotDone int `json:"not_done"`
	// Listed is how many lines the failed list has.
	Listed int `json:"listed"`

	failed spool // of Failure, in list order
}

// Failure is one line of the failed list.
type Failure struct {
	Line      queue.Text `json:"line"`
	Reference string     `json:"reference"`
	// Verdict is "dead", "cancelled" or, for a request without an outcome, "not-done".
	Verdict  string `json:"verdict"`
	Class    string `json:"class"`
	Reason   string `json:"reason"`
	Attempts int    `json:"attempts"`
}

// Failures is the failed list, in list order. It may be read several times. An
// error is the last thing returned.
func (r *Report) Failures() iter.Seq2[Failure, error] {
	return func(yield func(Failure, error) bool) {
		err := r.failed.each(func(_ int64, line []byte) error {
			var f Failure
			if err := json.Unmarshal(line, &f); err != nil {
				return fmt.Errorf("decode a record of the temporary file: %w", err)
			}
			if !yield(f, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Failure{}, err)
		}
	}
}

// errEnough ends the reading of a failed list before its end.
var errEnough = errors.New("enough")

// Close gives up the report's temporary file.
func (r *Report) Close() error { return r.failed.Close() }

// list puts a line of the tally's spool on the failed list.
func (r *Report) list(line []byte) error {
	r.Listed++
	_, err := r.failed.appendLine(line)
	return err
}

// listFailure puts a failure on the failed list.
func (r *Report) listFailure(f Failure) error {
	r.Listed++
	_, err := r.failed.append(f)
	return err
}

// Report tells of every line of the batch whose last generation has failed. The
// lines without an outcome are known to nobody without the list.
func (b *Batch) Report(ctx context.Context) (*Report, error) {
	record, _, err := b.record(ctx)
	if err != nil {
		return nil, err
	}
	inQueue, err := b.conn.Waiting(ctx, b.id)
	if err != nil {
		return nil, err
	}
	c, err := b.course(ctx, record)
	if err != nil {
		return nil, err
	}
	defer c.tally.Close() //nolint:errcheck // a file without a name
	r := &Report{Batch: b.id, Tally: c.tally.counts()}
	r.NotDone = max(0, expected(record, inQueue, c.tally)-r.Done())
	if err := c.tally.failures(r.list); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Report tells of every line of the list that has failed, or that has no
// outcome yet. It may be called at any time when Run is not running.
func (s *Submission) Report(ctx context.Context) (*Report, error) {
	if !s.course.allEnded() {
		if err := s.course.catchUp(ctx); err != nil {
			return nil, err
		}
	}
	tally := s.course.tally
	r := &Report{Batch: s.batch.ID, Tally: tally.counts()}
	if s.course.allEnded() && tally.placeless() == 0 {
		// The outcomes have all lines, in their order.
		if err := tally.failures(r.list); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	}
	err := s.listByLine(r)
	if err != nil && s.course.allEnded() {
		// The list is gone or changed. But for the lines of requests that could
		// not be read, the outcomes have them too.
		err = r.Close()
		r.Listed, r.NotDone = 0, 0
		err = errors.Join(err, tally.failures(r.list))
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// listByLine goes through the image list for what is on the failed list.
func (s *Submission) listByLine(r *Report) error {
	for request, err := range s.requests() {
		if err != nil {
			return err
		}
		line, stray, failed, err := s.course.tally.failedLine(request.Seq, request.ID)
		_, due := s.course.tally.due(request.Seq, request.ID)
		switch {
		case err != nil:
		case stray:
			var f Failure
			if err = json.Unmarshal(line, &f); err == nil {
				f.Line, f.Reference = request.Line, request.Reference
				err = r.listFailure(f)
			}
		case failed:
			err = r.list(line)
		case due:
			r.NotDone++
			err = r.listFailure(Failure{
				Line: request.Line, Reference: request.Reference, Verdict: "not-done", Reason: s.whyNotDone(),
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whyNotDone is why a request may have no outcome.
func (s *Submission) whyNotDone() string {
	if s.batch.Finished {
		return "its outcome is no longer kept"
	}
	return "interrupted before its turn came"
}

// failureOf is what an outcome says on the failed list.
func failureOf(o queue.Outcome) Failure {
	f := Failure{
		Line: o.Line, Reference: o.Reference, Verdict: string(o.Verdict),
		Class: o.Class, Reason: o.Error, Attempts: o.Attempts,
	}
	if o.Verdict == queue.Cancelled {
		f.Reason = "the batch was cancelled"
	}
	return f
}
