package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/worker"
)

// aheadLines is how many lines may be done before one that is still read, whose
// turn to be told of is first.
const aheadLines = 1024

// What a line of the list comes to.
const (
	lineValid    = "valid"
	lineNotValid = "not-valid"
	lineSkipped  = "skipped"
	lineError    = "error" // it could not be read
	lineNotDone  = "not-done"
)

// validatedLine is a line of the list and what it comes to.
type validatedLine struct {
	Line      queue.Text `json:"line"`
	Reference string     `json:"reference"`
	Result    string     `json:"result"`
	// Digest of the image, and what its manifests come to.
	Digest  string                `json:"digest,omitempty"`
	Class   string                `json:"class,omitempty"`
	Reason  string                `json:"reason,omitempty"`
	Digests []sign.VerifiedDigest `json:"digests,omitempty"`

	attempts int
}

// validateEach verifies the lines, so many at once, and tells of them in the order
// of the list. Once ctx ends, the lines that are left are told of as not done.
// What is held at a time has a bound, however long the list is.
func (v *validating) validateEach(ctx context.Context, verifier imageVerifier, tell func(validatedLine) error) error {
	working, stop := context.WithCancel(ctx)
	turns := make(chan chan validatedLine, aheadLines)
	var readErr error
	go func() {
		defer close(turns)
		slots := make(chan struct{}, v.Jobs)
		seen := make(map[[sha256.Size]byte]struct{})
		for line, err := range imagelist.Read(v.reader(), v.lines()) {
			if err != nil {
				readErr = fmt.Errorf("image list %s: %w", v.File, err)
				return
			}
			if _, again := seen[imageOf(line)]; again {
				continue // as it is signed once
			}
			seen[imageOf(line)] = struct{}{}
			done := make(chan validatedLine, 1)
			slots <- struct{}{}
			turns <- done
			go func() {
				done <- v.validate(working, verifier, line)
				<-slots
			}()
		}
	}()
	var err error
	for done := range turns {
		result := <-done
		if err != nil {
			continue // so that all that was begun comes to its end
		}
		if err = tell(result); err != nil {
			stop()
		}
	}
	stop()
	return errors.Join(err, readErr)
}

// imageOf is what a line names, or says where it names nothing.
func imageOf(line imagelist.Line) [sha256.Size]byte {
	if line.Err != nil {
		return sha256.Sum256([]byte("line " + line.Text))
	}
	return sha256.Sum256([]byte("image " + line.Reference + " " + line.Digest))
}

// validate verifies the image of a line.
func (v *validating) validate(ctx context.Context, verifier imageVerifier, line imagelist.Line) validatedLine {
	l := validatedLine{Line: queue.Text(line.Text), Reference: line.Reference}
	var bad *imagelist.LineError
	switch {
	case ctx.Err() != nil:
		return l.notDone()
	case errors.As(line.Err, &bad):
		v.log.Warn("line cannot be read, it goes to the failed list", zap.String("file", v.File), zap.Int("line", bad.Number),
			zap.String("problem", bad.Reason), zap.String("text", bad.Text))
		l.Result, l.Class, l.Reason = lineError, worker.InvalidRequest, bad.Reason
		return l
	}
	found, attempts, err := v.attempt(ctx, verifier, line)
	l.Digest, l.attempts = found.Digest, attempts
	switch {
	case err != nil && ctx.Err() != nil:
		return l.notDone()
	case err != nil:
		l.Result, l.Reason = lineError, err.Error()
		l.Class, _, _ = worker.Class(err)
	case found.Skipped != "":
		l.Result, l.Reason = lineSkipped, found.Skipped
	case found.Valid():
		l.Result, l.Digests = lineValid, found.Digests
	default:
		l.Result, l.Digests = lineNotValid, found.Digests
		l.Class, l.Reason = worst(found.Digests)
	}
	return l
}

func (l validatedLine) notDone() validatedLine {
	l.Result, l.Reason = lineNotDone, "interrupted before its turn came"
	return l
}

// worst is what the first manifest comes to that is not valid, and of how many
// that is so.
func worst(digests []sign.VerifiedDigest) (class, reason string) {
	wrong := 0
	for _, d := range digests {
		if d.Verdict == sign.Valid {
			continue
		}
		if wrong++; wrong == 1 {
			class, reason = string(d.Verdict), named(d)+": "+d.Reason
		}
	}
	if wrong > 1 {
		reason += fmt.Sprintf(" (and %d more of %d digests)", wrong-1, len(digests))
	}
	return class, reason
}

// named is a manifest for people.
func named(d sign.VerifiedDigest) string { return strings.TrimSpace(d.Platform + " " + d.Digest) }

// list puts a line on the failed list that belongs there.
func (l validatedLine) list(to *submit.Report) error {
	verdict := l.Result
	switch l.Result {
	case lineValid, lineSkipped:
		return nil
	}
	return to.Add(submit.Failure{Line: l.Line, Reference: l.Reference, Verdict: verdict, Class: l.Class, Reason: l.Reason, Attempts: l.attempts})
}

// text tells people what is not as it should be with a line; empty when all is.
func (l validatedLine) text() string {
	var text strings.Builder
	name := l.Reference
	if name == "" {
		name = string(l.Line)
	}
	name = printable(name)
	switch l.Result {
	case lineError:
		say(&text, "%s: %s\n", name, printable(l.Reason))
	case lineSkipped:
		say(&text, "%s: skipped: %s\n", name, printable(l.Reason))
	}
	for _, d := range l.Digests {
		if d.Verdict != sign.Valid {
			say(&text, "%s: %s: %s\n", name, printable(named(d)), printable(d.Reason))
		}
		for _, warning := range d.Warnings {
			say(&text, "%s: %s: warning: %s\n", name, printable(named(d)), printable(warning))
		}
	}
	return text.String()
}
