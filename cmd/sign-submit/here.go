package main

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/embedded"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/worker"
)

// signHere signs the list in this process: with the queue and the worker loop
// of a fleet, both of which live in the submission's own directory.
func signHere(ctx context.Context, s *settings, std streams) error {
	limits := station.Limits(s.Signing, config.WorkerName())
	limits.EventJobs, limits.Heartbeat = 0, embeddedHeartbeat
	if err := limits.Validate(); err != nil {
		return program.UsageError{Err: err}
	}
	st, err := station.New(ctx, station.Config{Settings: s.Signing, Source: s.source, Stdin: std.in, Prompt: std.err, Log: s.log})
	if err != nil {
		return program.UsageError{Err: err}
	}
	defer st.Close()
	asked := s.submission()
	asked.Keys, asked.Format = []string{st.Key.Fingerprint()}, s.Format

	dir, err := claimState(s, asked)
	if err != nil {
		return err
	}
	server, err := embedded.Start(dir)
	if err != nil {
		return err
	}
	defer server.Stop() //nolint:errcheck // the process ends, and with it the lock
	if err := unmarkFinished(dir); err != nil {
		return err
	}
	conn, err := server.Connect(ctx, queue.Options{Name: limits.Name})
	if err != nil {
		return err
	}
	defer conn.Close()
	// Other submissions on this machine may sign the same images.
	locks, err := embedded.NewLocker(conn.Locker(limits.Name), locksDir(dir))
	if err != nil {
		return err
	}
	w, err := st.Worker(conn, limits, station.Locks(locks.Lock))
	if err != nil {
		return program.UsageError{Err: err}
	}
	submission, err := openHere(ctx, conn, asked, std)
	if err != nil {
		return err
	}
	if !s.SkipLogin {
		wait := logIn(ctx, st.Registry, s, asked)
		defer wait()
	}
	workErr := work(ctx, w, submission, std)
	return concludeHere(ctx, workErr, submission, s, std, dir)
}

// openHere goes on with the batch that an earlier process left behind, or
// begins one.
func openHere(ctx context.Context, conn *queue.Conn, asked submit.Options, std streams) (*submit.Submission, error) {
	var err error
	if asked.Batch, err = submit.Unfinished(ctx, conn); err != nil {
		return nil, err
	}
	if asked.Batch != "" {
		say(std.err, "going on with batch %s\n", asked.Batch)
	}
	submission, err := submit.Open(ctx, conn, asked)
	if err != nil {
		return nil, err
	}
	return submission, submission.BadLines()
}

// work runs the worker and the submission side by side until the batch is done.
// When ctx ends, the worker finishes what it has in work.
func work(ctx context.Context, w *worker.Worker, submission *submit.Submission, std streams) error {
	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	drained := make(chan error, 1)
	go func() { drained <- w.Run(working) }()
	stopTelling := context.AfterFunc(ctx, func() {
		say(std.err, "interrupted: finishing the images in work; once more to stop at once\n")
	})
	err := submission.Run(ctx)
	stopTelling()
	stopWorking()
	return errors.Join(unlessInterrupted(ctx, err), <-drained)
}

// concludeHere reports on a submission that is done, was interrupted or could
// not go on: whatever ended the work, what failed or was not done is written.
func concludeHere(ctx context.Context, workErr error, submission *submit.Submission, s *settings, std streams, dir string) error {
	interrupted := ctx.Err() != nil
	report, err := conclude(ctx, submission, s, std)
	err = errors.Join(workErr, err)
	if err == nil && report.NotDone == 0 {
		return errors.Join(markFinished(dir), failures(report))
	}
	say(std.err, "what is done is remembered: the same command goes on where this one stopped\n")
	switch {
	case interrupted:
		return interruption(std, err)
	case err == nil:
		return errFailures
	}
	return err
}

// unlessInterrupted drops the error of a run that was told to end.
func unlessInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// claimState finds the directory of this very submission and clears away those
// of others that are long finished.
func claimState(s *settings, o submit.Options) (string, error) {
	root, err := stateRoot(s.StateDir, os.Getenv)
	if err != nil {
		return "", program.UsageError{Err: err}
	}
	hash, err := o.Hash()
	if err != nil {
		return "", err
	}
	dir := stateDir(root, append([]string{hash, o.List.Registry, o.List.Project, o.Format}, slices.Concat(o.Keys, []string{""}, o.Platforms)...))
	removeFinished(root, dir)
	return dir, nil
}
