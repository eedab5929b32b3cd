package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/embedded"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/telemetry"
	"github.com/signfleet/signfleet/internal/worker"
)

// signHere signs the list in this process: with the queue and the worker loop
// of a fleet, both of which live in the submission's own directory.
func signHere(ctx context.Context, s *settings, std streams) error {
	st, limits, err := stationHere(ctx, s.Signing, s.source, s.reports, s.log, std)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := boundMemory(s.list); err != nil {
		return fmt.Errorf("image list %s: %w", s.File, err)
	}
	asked := s.submission()
	if asked.Keys, asked.Format, asked.Signing, err = signedWith(st, s.Signing); err != nil {
		return program.UsageError{Err: err}
	}
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
	conn, err := server.Connect(ctx, queue.Options{Name: limits.Name, Meters: s.reports.Meters, Tracers: s.reports.Spans()})
	if err != nil {
		return err
	}
	defer conn.Close()
	w, err := workerHere(st, conn, dir, limits)
	if err != nil {
		return err
	}
	submission, err := openHere(ctx, conn, asked, dir, std)
	if err != nil {
		return err
	}
	defer submission.Close() //nolint:errcheck // a file without a name, and at its end
	if !s.SkipLogin {
		wait := logIn(ctx, st.Registry, s, asked)
		defer wait()
	}
	workErr := work(ctx, w, submission.Run, std)
	return concludeHere(ctx, workErr, submission, s, std, dir)
}

// stationHere opens the keys, and says how much is signed at once.
func stationHere(ctx context.Context, signing config.Signing, source *config.Source, reports *telemetry.Telemetry, log *zap.Logger, std streams) (*station.Station, worker.Options, error) {
	limits := station.Limits(signing, config.WorkerName())
	limits.EventJobs, limits.Heartbeat = 0, embeddedHeartbeat
	limits.KeyPatience = signing.MaxWait // somebody waits for the end
	if err := limits.Validate(); err != nil {
		return nil, limits, program.UsageError{Err: err}
	}
	st, err := station.New(ctx, station.Config{Settings: signing, Source: source, Stdin: std.in, Prompt: std.err, Log: log, Telemetry: reports})
	if err != nil {
		return nil, limits, station.Mistake(err)
	}
	return st, limits, nil
}

// workerHere is a worker on the queue of a state directory. Other submissions on
// this machine may sign the same images.
func workerHere(st *station.Station, conn *queue.Conn, dir string, limits worker.Options) (*worker.Worker, error) {
	locks, err := embedded.NewLocker(conn.Locker(limits.Name), locksDir(dir))
	if err != nil {
		return nil, err
	}
	w, err := st.Worker(conn, limits, station.Locks(locks.Lock))
	if err != nil {
		return nil, program.UsageError{Err: err}
	}
	return w, nil
}

// openHere goes on with the batch that an earlier process left behind, or
// begins one.
func openHere(ctx context.Context, conn *queue.Conn, asked submit.Options, dir string, std streams) (*submit.Submission, error) {
	var err error
	if asked.Batch, err = submit.Unfinished(ctx, conn); err != nil {
		return nil, err
	}
	if asked.Batch == "" {
		asked.Batch = queue.NewBatchID(time.Now())
	} else {
		say(std.err, "going on with batch %s\n", asked.Batch)
	}
	if err := noteBatch(dir, asked.Batch); err != nil {
		return nil, err
	}
	submission, err := submit.Open(ctx, conn, asked)
	if err != nil {
		return nil, err
	}
	if err := submission.BadLines(); err != nil {
		return nil, errors.Join(err, submission.Close())
	}
	return submission, nil
}

// work runs the worker and what follows its batch side by side until that is
// done, or the worker can no longer sign. When ctx ends, the worker finishes what
// it has in work.
func work(ctx context.Context, w *worker.Worker, follow func(context.Context) error, std streams) error {
	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	following, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	drained := make(chan error, 1)
	go func() {
		err := w.Run(working)
		if err != nil {
			stopFollowing()
		}
		drained <- err
	}()
	stopTelling := context.AfterFunc(ctx, func() {
		say(std.err, "interrupted: finishing the images in work; once more to stop at once\n")
	})
	err := follow(following)
	stopTelling()
	stopWorking()
	return errors.Join(unlessInterrupted(following, err), <-drained)
}

// concludeHere reports on a submission that is done, was interrupted or could
// not go on: whatever ended the work, what failed or was not done is written.
func concludeHere(ctx context.Context, workErr error, submission *submit.Submission, s *settings, std streams, dir string) error {
	interrupted := ctx.Err() != nil
	end, err := conclude(ctx, submission, s, std)
	err = errors.Join(workErr, err)
	if err == nil && end.NotDone == 0 {
		return errors.Join(markFinished(dir), failures(end))
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
	dir := stateDir(root, stateIdentity(hash, o))
	removeFinished(root, dir)
	return dir, nil
}
