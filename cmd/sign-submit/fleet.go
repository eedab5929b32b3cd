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
		URL: s.NATSURL, Name: "sign-submit", Partitions: s.Partitions,
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
	submission, err := submit.Open(ctx, conn, o)
	if err != nil {
		if errors.Is(err, submit.ErrOtherList) {
			return program.UsageError{Err: err}
		}
		return err
	}
	say(std.err, "batch %s\n", submission.Batch())
	if err := submission.BadLines(); err != nil {
		return err
	}
	err = submission.Run(ctx)
	progress.end()
	if ctx.Err() != nil {
		say(std.err, "interrupted: nothing is cancelled, the workers go on with what they were given; to go on from here:\n  %s\n", resumeCommand(s, submission.Batch()))
		return errInterrupted
	}
	if err != nil {
		say(std.err, "to go on from here:\n  %s\n", resumeCommand(s, submission.Batch()))
		return err
	}
	report, err := conclude(ctx, submission, s, std)
	if err != nil {
		return err
	}
	return failures(report)
}

// resumeCommand is the command line that goes on with a batch: it repeats
// what decides which requests the list turns into.
func resumeCommand(s *settings, batch string) string {
	words := []string{"sign-submit", "--nats-url", s.NATSURL, "--resume", batch, "--file", s.File}
	for _, flag := range []struct {
		name, value string
	}{
		{"registry", s.RegistryName}, {"project", s.Project},
		{"arch", strings.Join(s.Arch, ",")}, {"os", strings.Join(s.OS, ",")},
		{"failed", s.Failed},
	} {
		if s.source.Given(flag.name) {
			words = append(words, "--"+flag.name, flag.value)
		}
	}
	for i, word := range words {
		if word == "" || strings.ContainsAny(word, " \t\n'\"\\$&;|<>()*?[]#~`!{}") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
