package main

import (
	"context"
	"errors"
	"strings"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

// submitToFleet hands the list to the workers behind a NATS server and follows
// what becomes of it. When interrupted it leaves everything to them.
func submitToFleet(ctx context.Context, s *settings, std streams) error {
	conn, err := connect(ctx, s.NATS.Connect(s.NATSURL, queue.Options{Role: queue.RoleSubmitter, Meters: s.reports.Meters, Tracers: s.reports.Spans()}), s.log)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer conn.Close()
	o := s.submission()
	progress := newProgress(std.err)
	if !s.Detach {
		o.OnProgress = progress.show
		o.OnPublished = func(total int) { say(std.err, "%d requests submitted, following their outcomes\n", total) }
	}
	submission, err := submit.Open(ctx, conn, o)
	if err != nil {
		if errors.Is(err, submit.ErrOtherList) || errors.Is(err, submit.ErrFinished) {
			return program.UsageError{Err: err}
		}
		return interruptedOr(ctx, err)
	}
	defer submission.Close() //nolint:errcheck // a file without a name, and at its end
	if err := submission.BadLines(); err != nil {
		return err
	}
	if s.Detach {
		return detach(ctx, submission, s, std)
	}
	say(std.err, "batch %s\n", submission.Batch())
	stopTelling := context.AfterFunc(ctx, func() {
		say(std.err, "interrupted: nothing is cancelled, the workers go on with what they were given; to go on from here:\n%s\n", resumeHint(s, submission.Batch()))
	})
	defer stopTelling()
	told := tellWithoutWorkers(ctx, conn.Present, progress)
	runErr := submission.Run(ctx)
	told()
	progress.end()
	return concludeFleet(ctx, runErr, submission, s, std)
}

// detach submits the list and leaves it to the workers. What it prints is for
// the commands that come after.
func detach(ctx context.Context, submission *submit.Submission, s *settings, std streams) error {
	if err := submission.Publish(ctx); err != nil {
		say(std.err, "to go on from here:\n%s\n", resumeHint(s, submission.Batch()))
		return interruptedOr(ctx, err)
	}
	if s.Output == outputJSON {
		return printJSON(std.out, struct {
			Batch    string `json:"batch"`
			Requests int    `json:"requests"`
		}{submission.Batch(), submission.Progress().Total})
	}
	say(std.out, "%s\n", submission.Batch())
	return nil
}

// interruptedOr is err, or the interruption that brought it about.
func interruptedOr(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Canceled
	}
	return err
}

// concludeFleet reports on a submission that is done, was interrupted or could
// not go on.
func concludeFleet(ctx context.Context, runErr error, submission *submit.Submission, s *settings, std streams) error {
	interrupted := ctx.Err() != nil
	end, err := conclude(ctx, submission, s, std)
	switch {
	case err == nil && end.NotDone == 0:
		return failures(end)
	case interrupted:
		return interruption(std, err)
	case runErr == nil && err == nil:
		return errFailures // it had finished, and its outcomes are no longer kept
	}
	say(std.err, "to go on from here:\n%s\n", resumeHint(s, submission.Batch()))
	return errors.Join(runErr, err)
}

// resumeHint is the command line that goes on with a batch, and what its reader
// has to add to it.
func resumeHint(s *settings, batch string) string {
	hint := "  " + commandToGoOn(s, batch)
	if queue.RedactURL(s.NATSURL) != s.NATSURL {
		hint += "\n(with the credentials of the NATS server in the place of xxxxx)"
	}
	if s.File == "-" || strings.HasPrefix(s.File, "/dev/") {
		hint += "\n(and with the same list in " + s.File + " again)"
	}
	return hint
}

// commandToGoOn is the command line that goes on with a batch: it repeats all
// settings that were given, but for passwords.
func commandToGoOn(s *settings, batch string) string {
	words := []string{"sign-submit"}
	s.source.VisitGiven(func(name, value string) {
		switch name {
		case "batch", "resume", "jobs", "skip-login", "state-dir":
			return
		case "nats-url":
			value = queue.RedactURL(value)
		}
		words = append(words, shellWord("--"+name+"="+value))
	})
	return strings.Join(append(words, "--resume", batch), " ")
}

// shellWord quotes a word for a shell, where it needs that.
func shellWord(word string) string {
	if !strings.ContainsAny(word, " \t\n'\"\\$&;|<>()*?[]#~`!{}") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// shellWords quotes several words for a shell.
func shellWords(words []string) string {
	quoted := make([]string, 0, len(words))
	for _, word := range words {
		quoted = append(quoted, shellWord(word))
	}
	return strings.Join(quoted, " ")
}
