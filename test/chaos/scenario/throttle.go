package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/signfleet/signfleet/test/chaos/accounting"
	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
)

const (
	// throttleLimit is how many requests a second the registry takes.
	throttleLimit = 100
	// throttleJobs is how many images each worker signs at once: enough for more
	// requests than the registry takes.
	throttleJobs = 4
	// throttleWorkers is how many processes sign from the beginning on.
	throttleWorkers = 4
	// A list of so many lines lasts long enough to say how much of the limit a
	// fleet makes use of, which is to be no less than this share. A short run,
	// of fewer than shortImages, has no more than it asks for.
	tellingImages = 500
	shortImages   = 300
	leastUse      = 0.8
	// ratedImages is the length of the list that two workers sign which are told
	// to make no more than ratedLimit requests a second together.
	ratedImages = 60
	ratedLimit  = 40
)

// throttle has a fleet sign at a registry that takes so many requests a second:
// no image fails of that, no attempt is lost, and no worker knows the limit.
func throttle(ctx context.Context, r *run) error {
	images := r.config.Images
	if images >= shortImages {
		images = max(images, tellingImages)
	}
	// The last one joins later.
	f, err := startThrottled(ctx, r, r.report.Dir, throttleWorkers+1)
	if err != nil {
		return err
	}
	if err := errors.Join(newScene(r, f).throttle(ctx, images), f.Close()); err != nil || images < tellingImages {
		return err
	}
	if f, err = startThrottled(ctx, r, filepath.Join(r.report.Dir, "rate"), 2, "--host-rate", strconv.Itoa(ratedLimit)); err != nil {
		return err
	}
	return errors.Join(newScene(r, f).stayBelow(ctx), f.Close())
}

func startThrottled(ctx context.Context, r *run, dir string, workers int, flags ...string) (*fleet.Fleet, error) {
	return fleet.Start(ctx, fleet.Options{
		Binaries: r.config.Binaries, Dir: dir, Workers: workers, Jobs: throttleJobs, Keys: 1, AckWait: ackWait,
		WorkerFlags: append([]string{"--shutdown-grace", "20s"}, flags...),
	})
}

func (sc *scene) throttle(ctx context.Context, images int) error {
	late := sc.Workers()[throttleWorkers]
	if err := late.Terminate(ctx, time.Minute); err != nil {
		return err
	}
	foreign, err := sc.prepareOne(ctx, "throttle", images)
	if err != nil {
		return err
	}
	submission := sc.submissions[0]
	sc.Faults().Limit(throttleLimit)
	if err := submitAll(ctx, sc); err != nil {
		return err
	}
	if err := sc.awaitDone(ctx, submission, len(submission.Lines)/3); err != nil {
		return err
	}
	sc.did("a worker joins")
	if err := late.Start(ctx); err != nil {
		return err
	}
	if err := sc.awaitDone(ctx, submission, len(submission.Lines)*2/3); err != nil {
		return err
	}
	sc.did("SIGTERM of a worker")
	if err := sc.Workers()[0].Terminate(ctx, time.Minute); err != nil {
		return err
	}
	if err := sc.awaitEnd(ctx, submission); err != nil {
		return err
	}
	sc.measureUse(usageOf(sc.Proxy().Requests()), images)
	if err := sc.settle(ctx); err != nil {
		return err
	}
	books, err := sc.audit(ctx, foreign)
	if err != nil {
		return err
	}
	sc.checkAttempts(books)
	return sc.dismiss(ctx)
}

// stayBelow has two workers sign that were told a rate, at a registry without a limit.
func (sc *scene) stayBelow(ctx context.Context) error {
	foreign, err := sc.prepareOne(ctx, "rate", ratedImages)
	if err != nil {
		return err
	}
	if err := submitAll(ctx, sc); err != nil {
		return err
	}
	if err := sc.awaitEnd(ctx, sc.submissions[0]); err != nil {
		return err
	}
	used := usageOf(sc.Proxy().Requests())
	sc.note("2 workers with --host-rate %d made %d requests in %s: %.1f a second, %d in the busiest", ratedLimit,
		used.accepted, used.span.Round(time.Second/10), used.rate(), slices.Max(used.seconds))
	if used.rate() > ratedLimit {
		sc.complain("%.1f requests a second, where %d were allowed", used.rate(), ratedLimit)
	}
	if err := sc.settle(ctx); err != nil {
		return err
	}
	if _, err := sc.audit(ctx, foreign); err != nil {
		return err
	}
	return sc.dismiss(ctx)
}

// prepareOne pushes the images of one batch and writes its list.
func (sc *scene) prepareOne(ctx context.Context, name string, images int) (foreign fleet.Key, err error) {
	all, foreign, err := sc.Push(ctx, sc.random, images, name)
	if err != nil {
		return foreign, err
	}
	sc.report.Lines += len(all)
	submission, err := sc.Prepare(name+"-0", all)
	sc.submissions = []*fleet.Submission{submission}
	return foreign, err
}

// awaitEnd waits for the end of a batch that takes its time.
func (sc *scene) awaitEnd(ctx context.Context, submission *fleet.Submission) error {
	waiting, cancel := context.WithTimeout(ctx, calm)
	defer cancel()
	if _, err := submission.Wait(waiting); err != nil {
		return fmt.Errorf("batch %s: %w", submission.Batch, err)
	}
	return nil
}

// usage is what a registry was asked for between the first request and the last.
type usage struct {
	accepted, refused int
	span              time.Duration
	seconds           []int // accepted in each
}

func usageOf(requests []peers.Request) usage {
	var u usage
	var first, last time.Time
	for _, r := range requests {
		if r.Status == http.StatusTooManyRequests {
			u.refused++
			continue
		}
		if first.IsZero() {
			first = r.At
		}
		u.accepted++
		last = r.At
		for int(r.At.Sub(first)/time.Second) >= len(u.seconds) {
			u.seconds = append(u.seconds, 0)
		}
		u.seconds[len(u.seconds)-1]++
	}
	u.span = last.Sub(first)
	return u
}

func (u usage) rate() float64 { return float64(u.accepted) / max(u.span.Seconds(), 1) }

func (sc *scene) measureUse(u usage, images int) {
	sc.Log("requests accepted in each second: %v", u.seconds)
	share := u.rate() / throttleLimit
	sc.note("%d requests accepted in %s, %d refused: %.0f %% of the %d a second used", u.accepted, u.span.Round(time.Second/10), u.refused, 100*share, throttleLimit)
	if images < tellingImages {
		return
	}
	if u.refused == 0 {
		sc.complain("the registry refused nothing: the fleet was not put to the test")
	}
	if share < leastUse {
		sc.complain("only %.0f %% of what the registry takes were used", 100*share)
	}
}

// checkAttempts demands that being refused for now was no attempt.
func (sc *scene) checkAttempts(books *accounting.Books) {
	for _, batch := range books.Batches {
		for _, o := range batch.Outcomes {
			if o.Attempts > 1 {
				sc.complain("batch %s: %s took %d attempts", batch.Name, o.Line, o.Attempts)
			}
		}
	}
}
