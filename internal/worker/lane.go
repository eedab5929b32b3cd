package worker

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
)

// lane is where a worker's jobs come from, and how many of them it may have.
type lane struct {
	name string
	jobs int
	// next waits for jobs and claims at most so many of them. What it returns
	// with an error is the caller's all the same.
	next func(ctx context.Context, free int) ([]*job, error)
}

// laneOf is a lane of the queue.
func laneOf(l *queue.Lane, name string, jobs int) lane {
	return lane{name: name, jobs: jobs, next: func(ctx context.Context, free int) ([]*job, error) {
		deliveries, err := l.Next(ctx, free)
		got := make([]*job, 0, len(deliveries))
		for _, d := range deliveries {
			got = append(got, newJob(d))
		}
		return got, err
	}}
}

// lanePause is the pause after a lane could not be asked for requests.
const lanePause = time.Second

// serve claims requests of one lane whenever there are free slots and handles
// each in a goroutine of its own. fetch ends the claiming, work the handling.
func (w *Worker) serve(fetch, work context.Context, from lane) {
	slots := newSlots(from.jobs)
	in := metric.WithAttributeSet(attribute.NewSet(attribute.String("lane", from.name)))
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		free, err := slots.take(fetch)
		if err != nil {
			return // the end of fetch is how serving ends
		}
		w.awaitResumed(fetch, from.name)
		w.gate.wait(fetch)
		open, stop := w.gate.whileOpen(fetch)
		jobs, err := from.next(open, free)
		ended := open.Err() != nil
		stop()
		slots.give(free - len(jobs))
		for _, j := range jobs {
			handlers.Go(func() {
				defer slots.give(1)
				w.tell.used.Add(work, 1, in)
				defer w.tell.used.Add(work, -1, in)
				w.handle(work, fetch, j)
			})
		}
		if err != nil && !ended {
			w.log.Warn("cannot ask for requests, trying again", zap.String("lane", from.name), zap.Error(err))
			pause(fetch, lanePause)
		}
	}
}

// awaitResumed returns when the lane is not paused, or when ctx ends.
func (w *Worker) awaitResumed(ctx context.Context, name string) {
	if !w.control.isPaused(ctx, name) {
		return
	}
	w.log.Info("the lane is paused", zap.String("lane", name))
	for ctx.Err() == nil && w.control.isPaused(ctx, name) {
		pause(ctx, answerAge)
	}
	w.log.Info("the lane is no longer paused", zap.String("lane", name))
}

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// slots are the images a lane may have in work at once.
type slots chan struct{}

func newSlots(n int) slots {
	s := make(slots, n)
	s.give(n)
	return s
}

// gatherFor is how long the taking of slots waits for more of them, where they
// are many: requests that are asked for together cost the queue less.
const gatherFor = time.Millisecond

// take waits for one slot and takes all others that are free with it, or become
// so at once as long as they are less than a quarter.
func (s slots) take(ctx context.Context) (int, error) {
	select {
	case <-s:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	n := 1 + s.takeFree()
	if n >= cap(s)/4 {
		return n, nil
	}
	gathered := time.NewTimer(gatherFor)
	defer gathered.Stop()
	for n < cap(s)/4 {
		select {
		case <-s:
			n++
		case <-gathered.C:
			return n, nil
		}
	}
	return n, nil
}

// takeFree takes the slots that are free now.
func (s slots) takeFree() int {
	for n := 0; ; n++ {
		select {
		case <-s:
		default:
			return n
		}
	}
}

func (s slots) give(n int) {
	for range n {
		s <- struct{}{}
	}
}
