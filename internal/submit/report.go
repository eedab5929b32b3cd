package submit

import (
	"context"
	"errors"

	"github.com/signfleet/signfleet/internal/queue"
)

// Report is how a batch ended, or how far it came.
type Report struct {
	Batch string
	Tally
	// Failures are the lines that failed or were not done, in list order.
	Failures []Failure
	// NotDone is how many of them have no outcome.
	NotDone int
}

// Failure is one line of the failed list.
type Failure struct {
	Line      string `json:"line"`
	Reference string `json:"reference,omitempty"`
	// Verdict is "dead", "cancelled" or, for a request without an outcome, "not-done".
	Verdict  string `json:"verdict"`
	Class    string `json:"class,omitempty"`
	Reason   string `json:"reason"`
	Attempts int    `json:"attempts"`
}

// Report tells of every line of the list that has failed, or that has no
// outcome yet. It may be called at any time when Run is not running.
func (s *Submission) Report(ctx context.Context) (Report, error) {
	if err := s.catchUp(ctx); err != nil {
		return Report{}, err
	}
	report := Report{Batch: s.batch.ID, Tally: s.tally.counts()}
	complete := s.done()
	if report.Failed() == 0 && complete {
		return report, nil // no need to read the list again
	}
	for request, err := range s.requests() {
		if err != nil && complete {
			// The list is gone or changed. The outcomes have the lines too, if
			// only as far as they are text.
			report.Failures = s.tally.failures()
			return report, nil
		}
		if err != nil {
			return Report{}, err
		}
		failure, failed := s.tally.failure(request.Seq)
		switch {
		case failed:
			failure.Line = request.Line // byte by byte
			report.Failures = append(report.Failures, failure)
		case !s.tally.has(request.Seq):
			report.NotDone++
			report.Failures = append(report.Failures, Failure{
				Line: request.Line, Reference: request.Reference, Verdict: "not-done",
				Reason: s.whyNotDone(),
			})
		}
	}
	return report, nil
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

// catchUp takes all outcomes into account that are stored by now.
func (s *Submission) catchUp(ctx context.Context) error {
	if s.done() {
		return nil
	}
	err := s.conn.Follow(ctx, s.batch.ID, func() error { return errComplete }, func(o queue.Outcome) error {
		s.add(o)
		return nil
	})
	if errors.Is(err, errComplete) {
		return nil
	}
	return err
}
