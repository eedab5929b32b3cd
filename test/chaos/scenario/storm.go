package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/test/chaos/accounting"
	"github.com/signfleet/signfleet/test/chaos/fleet"
)

// storm is a scenario of the common kind: a fleet signs batches of the same
// images while something rages.
type storm struct {
	name, does string
	cluster    bool
	keys       int // of the workers, in turns; 1 when 0
	batches    int // of the same list; 1 when 0
	// mayFail are the classes that images may die of in this storm. None may
	// die of what a fleet is to outlive.
	mayFail []string
	// submit submits the batches, if that is part of the storm.
	submit func(context.Context, *scene) error
	rage   func(context.Context, *scene) error
}

// scene is a storm under way.
type scene struct {
	*run
	*fleet.Fleet
	submissions []*fleet.Submission
	kills       *[]time.Time // guarded by mu
}

func newScene(r *run, f *fleet.Fleet) *scene { return &scene{run: r, Fleet: f, kills: &[]time.Time{}} }

const (
	jobs = 2
	// ackWait is that of the queue; the default is 30 s.
	ackWait = 3 * time.Second
	// calm is how long a healed fleet may take to finish: a lock whose holder
	// was killed is held for a minute.
	calm = 4 * time.Minute
	// requestsDeep is the longest chain of dependent requests of an image.
	requestsDeep = 6
)

func (s storm) run(ctx context.Context, r *run) error {
	f, err := startFleet(ctx, r, s)
	if err != nil {
		return err
	}
	return errors.Join(s.play(ctx, newScene(r, f)), f.Close())
}

func startFleet(ctx context.Context, r *run, s storm) (*fleet.Fleet, error) {
	return fleet.Start(ctx, fleet.Options{
		Binaries: r.config.Binaries, Dir: r.report.Dir, Workers: r.config.Workers, Jobs: jobs,
		Keys: max(1, s.keys), Cluster: s.cluster, AckWait: ackWait,
		WorkerFlags: []string{
			"--lock-ttl", r.config.Lease.String(), "--backoff", "500ms", "--attempts", "6", "--shutdown-grace", "20s", "--breaker-pause", "2s",
		},
	})
}

// play has the batches signed in the storm, and closes the books behind it.
func (s storm) play(ctx context.Context, sc *scene) error {
	all, foreign, err := sc.Push(ctx, sc.random, sc.config.Images, s.name)
	if err != nil {
		return err
	}
	all = append(all, all[sc.random.IntN(len(all))]) // a line that stands twice counts once
	sc.Faults().SetLatency(sc.latency(max(1, s.batches) * len(all)))
	for i := range max(1, s.batches) {
		batch := fmt.Sprintf("%s-%d", s.name, i)
		submission, err := sc.Prepare(batch, all)
		if err != nil {
			return err
		}
		sc.submissions = append(sc.submissions, submission)
		sc.report.Lines += len(all)
	}
	if err := s.submitAndRage(ctx, sc); err != nil {
		return err
	}
	if err := sc.settle(ctx); err != nil {
		return err
	}
	books, err := sc.audit(ctx, foreign, s.mayFail...)
	if err != nil {
		return err
	}
	sc.boundKills(books)
	return sc.dismiss(ctx)
}

// latency is what makes the signing of so many images last for most of the storm.
func (sc *scene) latency(images int) time.Duration {
	slots := sc.config.Workers * jobs
	d := sc.config.Duration * 8 / 10 * time.Duration(slots) / time.Duration(requestsDeep*images)
	return min(max(d, 5*time.Millisecond), 300*time.Millisecond)
}

// submitAndRage ends with the storm: when its time is over, or all is signed.
func (s storm) submitAndRage(ctx context.Context, sc *scene) error {
	raging, over := context.WithTimeout(ctx, sc.config.Duration)
	defer over()
	submit := s.submit
	if submit == nil {
		submit = submitAll
	}
	if err := submit(ctx, sc); err != nil {
		return err
	}
	var group errgroup.Group
	group.Go(func() error {
		defer over()
		for _, submission := range sc.submissions {
			if _, err := submission.Wait(raging); err != nil {
				return nil //nolint:nilerr // the storm is over before the batch is done
			}
		}
		return nil
	})
	if s.rage != nil {
		group.Go(func() error {
			if err := s.rage(raging, sc); err != nil && raging.Err() == nil {
				return fmt.Errorf("raging: %w", err)
			}
			return nil
		})
	}
	return group.Wait()
}

func submitAll(ctx context.Context, sc *scene) error {
	for _, submission := range sc.submissions {
		if err := submission.Start(ctx, sc.NATSURL()); err != nil {
			return err
		}
	}
	return nil
}

// settle heals the fleet and waits until it has done what there is to do.
func (sc *scene) settle(ctx context.Context) error {
	sc.Log("the storm is over")
	if err := sc.Heal(ctx); err != nil {
		return fmt.Errorf("healing: %w", err)
	}
	healed := time.Now()
	for _, submission := range sc.submissions {
		waiting, cancel := context.WithDeadline(ctx, healed.Add(calm))
		_, err := submission.Wait(waiting)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			sc.complain("batch %s is not done %s after the storm", submission.Batch, calm)
			if err := submission.Kill(); err != nil {
				return err
			}
		}
	}
	sc.bound("end of the storm to the end of the batches", time.Since(healed))
	for _, submission := range sc.submissions {
		err := fleet.Await(ctx, time.Minute, "an empty queue", func(ctx context.Context) (bool, error) {
			left, err := sc.Left(ctx, submission.Batch)
			return left == 0, err
		})
		if err != nil && ctx.Err() == nil {
			sc.complain("batch %s: %v", submission.Batch, err)
		}
	}
	if sc.Cluster() != nil {
		return sc.Cluster().AwaitCurrent(ctx)
	}
	return nil
}

// audit complains about what does not add up.
func (sc *scene) audit(ctx context.Context, foreign fleet.Key, mayFail ...string) (*accounting.Books, error) {
	books, err := accounting.Open(ctx, sc.Fleet, foreign, sc.submissions)
	if err != nil {
		return nil, fmt.Errorf("opening the books: %w", err)
	}
	books.MayFail = mayFail
	complaints := books.Check()
	verified, rejected := books.Verify(ctx, sc.Fleet, sc.config.Verify)
	for _, c := range append(complaints, rejected...) {
		sc.complain("%s", c)
	}
	sc.report.Sum, sc.report.Verified = books.Sum(), sc.report.Verified+verified
	return books, nil
}

// dismiss ends the workers, which must drain, and complains of what they did unasked.
func (sc *scene) dismiss(ctx context.Context) error {
	for _, w := range sc.Workers() {
		if err := w.Terminate(ctx, time.Minute); err != nil {
			return err
		}
	}
	for _, mishap := range sc.Mishaps() {
		sc.complain("%s", mishap)
	}
	return nil
}

// boundKills measures the time from the kill of a worker to the outcome of an
// image that it had: one of whose requests ended with the worker.
func (sc *scene) boundKills(books *accounting.Books) {
	for _, request := range sc.Proxy().Requests() {
		if !request.Aborted {
			continue
		}
		for _, kill := range *sc.kills {
			if since := request.At.Sub(kill); since < 0 || since > 500*time.Millisecond {
				continue
			}
			for _, batch := range books.Batches {
				for _, o := range batch.Outcomes {
					_, path, _ := strings.Cut(o.Line, "/")
					repository, _, _ := strings.Cut(path, ":")
					if strings.HasPrefix(request.Path, "/v2/"+repository+"/") && o.FinishedAt.After(kill) {
						sc.bound("kill of a worker to the outcome of its image", o.FinishedAt.Sub(kill))
					}
				}
			}
		}
	}
}
