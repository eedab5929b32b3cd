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
		return err
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
		return err
	}
	say(std.err, "batch %s\n", submission.Batch())
	if err := submission.BadLines(); err != nil {
		return err
	}
	runErr := submission.Run(ctx)
	progress.end()
	return concludeFleet(ctx, runErr, submission, s, std)
}

// concludeFleet reports on a submission that is done, was interrupted or could
// not go on; in the last two cases it says how to.
func concludeFleet(ctx context.Context, runErr error, submission *submit.Submission, s *settings, std streams) error {
	interrupted := ctx.Err() != nil
	report, err := conclude(ctx, submission, s, std)
	if err == nil && report.NotDone == 0 {
		return failures(report)
	}
	if interrupted {
		say(std.err, "interrupted: nothing is cancelled, the workers go on with what they were given; to go on from here:\n  %s\n", resumeCommand(s, submission.Batch()))
		return interruption(std, err)
	}
	say(std.err, "to go on from here:\n  %s\n", resumeCommand(s, submission.Batch()))
	return errors.Join(runErr, err)
}

// resumeCommand is the command line that goes on with a batch: it repeats what
// was given as flags, but for passwords.
func resumeCommand(s *settings, batch string) string {
	words := []string{"sign-submit"}
	s.source.VisitChanged(func(name, value string) {
		switch name {
		case "batch", "resume", "jobs", "skip-login", "state-dir":
			return
		case "nats-url":
			value = queue.RedactURL(value)
		}
		words = append(words, "--"+name, value)
	})
	words = append(words, "--resume", batch)
	for i, word := range words {
		if word == "" || strings.ContainsAny(word, " \t\n'\"\\$&;|<>()*?[]#~`!{}") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
