// Package worker takes requests from the queue, has them signed and sees to it
// that each ends with exactly one outcome, or is tried again.
//
// It decides what happens to a request: how often it is tried, when, and what
// a failure means (the class, in one function). It does not know how an image
// is signed, nor how a record is stored.
package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// Signer signs one image.
type Signer interface {
	Sign(ctx context.Context, r sign.Request) (sign.Result, error)
}

// records is what the worker reads and writes in the queue besides requests.
type records interface {
	Record(ctx context.Context, o queue.Outcome) (queue.Outcome, error)
	Outcome(ctx context.Context, batch, id string, gen int) (queue.Outcome, error)
	Bury(ctx context.Context, letter queue.DeadLetter) error
	Ledger(ctx context.Context, r queue.Request) (queue.Entry, bool, error)
	WriteLedger(ctx context.Context, r queue.Request, e queue.Entry) error
	ClearLedger(ctx context.Context, r queue.Request) error
	Cancelled(ctx context.Context, batch string) (bool, error)
}

// errDrained is the cause of the end of work that a drain did not wait for.
var errDrained = errors.New("the worker stops")

// Worker consumes requests. New makes one, Run is called once.
type Worker struct {
	options   Options
	conn      *queue.Conn
	records   records
	signer    Signer
	log       *zap.Logger
	cancelled *cancellations
	random    func() float64 // 0 to 1, for jitter
}

// New returns a worker of the queue behind conn.
func New(conn *queue.Conn, signer Signer, o Options, log *zap.Logger) (*Worker, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Heartbeat > conn.AckWait()/2 {
		return nil, fmt.Errorf("heartbeat: %s is too long for an ack wait of %s: make it half of that or less", o.Heartbeat, conn.AckWait())
	}
	w := newWorker(conn, signer, o, log)
	w.conn = conn
	return w, nil
}

func newWorker(r records, signer Signer, o Options, log *zap.Logger) *Worker {
	return &Worker{
		options: o, records: r, signer: signer, log: log,
		cancelled: newCancellations(r),
		random:    rand.Float64,
	}
}

// Run serves the lanes until ctx ends. It then stops asking for requests,
// finishes those in flight within ShutdownGrace, gives the rest back and
// returns nil.
func (w *Worker) Run(ctx context.Context) error {
	work, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	stopGrace := context.AfterFunc(ctx, func() {
		grace := time.AfterFunc(w.options.ShutdownGrace, func() { abort(errDrained) })
		context.AfterFunc(work, func() { grace.Stop() })
	})
	defer stopGrace()

	var lanes errgroup.Group
	lanes.Go(func() error { return w.serve(ctx, work, w.conn.BulkLane(), w.options.Jobs) })
	if w.options.EventJobs > 0 {
		lanes.Go(func() error { return w.serve(ctx, work, w.conn.EventLane(), w.options.EventJobs) })
	}
	return lanes.Wait()
}

// lanePause is the pause after a lane could not be asked for requests.
const lanePause = time.Second

// serve claims requests of one lane whenever there are free slots and handles
// each in a goroutine of its own. fetch ends the claiming, work the handling.
func (w *Worker) serve(fetch, work context.Context, lane *queue.Lane, jobs int) error {
	slots := newSlots(jobs)
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		free, err := slots.take(fetch)
		if err != nil {
			return nil //nolint:nilerr // the end of fetch is how serving ends
		}
		deliveries, err := lane.Next(fetch, free)
		slots.give(free - len(deliveries))
		for _, d := range deliveries {
			handlers.Go(func() {
				defer slots.give(1)
				w.handle(work, fetch, newJob(d))
			})
		}
		if err != nil && fetch.Err() == nil {
			w.log.Warn("cannot ask for requests, trying again", zap.Error(err))
			pause(fetch, lanePause)
		}
	}
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

// take waits for one slot and takes all others that are free with it.
func (s slots) take(ctx context.Context) (int, error) {
	select {
	case <-s:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for n := 1; ; n++ {
		select {
		case <-s:
		default:
			return n, nil
		}
	}
}

func (s slots) give(n int) {
	for range n {
		s <- struct{}{}
	}
}
