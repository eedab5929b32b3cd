package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/signfleet/signfleet/test/chaos/accounting"
	"github.com/signfleet/signfleet/test/chaos/fleet"
)

// cancelAndRetry cancels a batch in the middle, retries it, and kills a worker
// meanwhile: what was signed before is signed, and in the end all is.
func cancelAndRetry(ctx context.Context, r *run) error {
	f, err := startFleet(ctx, r, storm{})
	if err != nil {
		return err
	}
	return errors.Join(newScene(r, f).cancelAndRetry(ctx), f.Close())
}

func (sc *scene) cancelAndRetry(ctx context.Context) error {
	all, foreign, err := sc.Push(ctx, sc.random, sc.config.Images, "cancel")
	if err != nil {
		return err
	}
	sc.report.Lines = len(all)
	sc.Faults().SetLatency(sc.latency(len(all)))
	submission, err := sc.Prepare("cancel-0", all)
	if err != nil {
		return err
	}
	sc.submissions = []*fleet.Submission{submission}
	if err := submitAll(ctx, sc); err != nil {
		return err
	}
	some := 1 + sc.random.IntN(len(all)/2)
	if err := sc.awaitDone(ctx, submission, some); err != nil {
		return err
	}
	sc.did("cancelling")
	if err := sc.demand(ctx, "cancel", submission.Batch); err != nil {
		return err
	}
	if err := sc.settle(ctx); err != nil {
		return err
	}
	books, err := sc.audit(ctx, foreign, "cancelled")
	if err != nil {
		return err
	}
	if books.Sum()["cancelled"] == 0 {
		sc.complain("batch %s: nothing of it was cancelled", submission.Batch)
	}
	if err := sc.boundCancel(ctx, submission, books); err != nil {
		return err
	}

	sc.Faults().SetLatency(sc.latency(len(all)))
	if err := sc.demand(ctx, "retry", submission.Batch); err != nil {
		return err
	}
	if err := submission.Rejoin(ctx); err != nil {
		return err
	}
	sc.rest(ctx, 500*time.Millisecond, time.Second)
	if err := sc.killWorker(ctx); err != nil {
		return err
	}
	if err := sc.settle(ctx); err != nil {
		return err
	}
	if _, err := sc.audit(ctx, foreign); err != nil {
		return err
	}
	return sc.dismiss(ctx)
}

// boundCancel measures how long images went on behind the mark of the cancelling.
func (sc *scene) boundCancel(ctx context.Context, submission *fleet.Submission, books *accounting.Books) error {
	marks, err := sc.Stored(ctx, "KV_SIGN_BATCHES", "$KV.SIGN_BATCHES."+submission.Batch+".cancelled")
	if err != nil {
		return err
	}
	if len(marks) == 0 {
		sc.complain("batch %s: nothing marks it as cancelled", submission.Batch)
		return nil
	}
	for _, o := range books.Batches[0].Outcomes {
		after := o.FinishedAt.Sub(marks[0].At)
		switch {
		case after <= 0:
		case o.Verdict == "cancelled":
			sc.bound("cancel to a cancelled outcome", after)
		default:
			sc.bound("cancel to the outcome of an image in work", after)
		}
	}
	return nil
}

// awaitDone waits until so many requests of a batch have an outcome.
func (sc *scene) awaitDone(ctx context.Context, submission *fleet.Submission, some int) error {
	return fleet.Await(ctx, calm, fmt.Sprintf("%d outcomes", some), func(ctx context.Context) (bool, error) {
		done, err := sc.Done(ctx, submission.Batch)
		return done >= some, err
	})
}

// demand is a command of sign-submit that must succeed.
func (sc *scene) demand(ctx context.Context, args ...string) error {
	code, output, err := sc.Ask(ctx, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("sign-submit %s left with %d:\n%s", args[0], code, output)
	}
	return err
}
