package main

import (
	"context"
	"errors"
	"strings"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

// submitToFleet hands the list to the workers behind a NATS server and follows
// what becomes of it. When interrupted it leaves everything to them.
func submitToFleet(ctx context.Context, s *settings, std streams) error {
	conn, err := queue.Connect(ctx, queue.Options{
		URL: s.NATSURL, Name: "sign-submit",
		OnDisconnect: func(err error) { s.log.Warn("lost the NATS server, connecting again", zap.Error(err)) },
		OnReconnect:  func(server string) { s.log.Info("connected to NATS again", zap.String("server", server)) },
	})
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer conn.Close()
	o := s.submission()
	progress := newProgress(std.err)
	o.OnProgress = progress.show
	o.OnPublished = func(total int) { say(std.err, "%d requests submitted, following their outcomes\n", total) }
	submission, err := submit.Open(ctx, conn, o)
	if err != nil {
		if errors.Is(err, submit.ErrOtherList) || errors.Is(err, submit.ErrFinished) {
			return program.UsageError{Err: err}
		}
		return interruptedOr(ctx, err)
	}
	say(std.err, "batch %s\n", submission.Batch())
	if err := submission.BadLines(); err != nil {
		return err
	}
	stopTelling := context.AfterFunc(ctx, func() {
		say(std.err, "interrupted: nothing is cancelled, the workers go on with what they were given; to go on from here:\n%s\n", resumeHint(s, submission.Batch()))
	})
	defer stopTelling()
	runErr := submission.Run(ctx)
	progress.end()
	return concludeFleet(ctx, runErr, submission, s, std)
}

// interruptedOr is err, or the interruption that brought it about.
func interruptedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Canceled
	}
	return err
}

// concludeFleet reports on a submission that is done, was interrupted or could
// not go on.
func concludeFleet(ctx context.Context, runErr error, submission *submit.Submission, s *settings, std streams) error {
	interrupted := ctx.Err() != nil
	report, err := conclude(ctx, submission, s, std)
	switch {
	case err == nil && report.NotDone == 0:
		return failures(report)
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
	hint := "  " + resumeCommand(s, batch)
	if queue.RedactURL(s.NATSURL) != s.NATSURL {
		hint += "\n(with the credentials of the NATS server in the place of xxxxx)"
	}
	if s.File == "-" || strings.HasPrefix(s.File, "/dev/") {
		hint += "\n(and with the same list in " + s.File + " again)"
	}
	return hint
}

// resumeCommand is the command line that goes on with a batch: it repeats all
// settings that were given, but for passwords.
func resumeCommand(s *settings, batch string) string {
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
