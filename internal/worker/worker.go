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
	Cancelled(ctx context.Context, batch string) (queue.Cancellation, bool, error)
	Paused(ctx context.Context, target string) (queue.Pause, bool, error)
	Announce(ctx context.Context, p queue.Presence) error
	Presences(ctx context.Context, each func(p queue.Presence, age time.Duration), gone func(worker string)) error
	Withdraw(ctx context.Context, worker string) error
}

// errDrained is the cause of the end of work that a drain did not wait for.
var errDrained = errors.New("the worker stops")

// Worker consumes requests. New makes one, Run is called once.
type Worker struct {
	options Options
	conn    *queue.Conn
	records records
	signer  Signer
	log     *zap.Logger
	images  *zap.Logger // of the one line of each image
	tell    *instruments
	control *control
	inWork  *inWork
	sharing *sharing
	gate    *keyGate
	random  func() float64 // 0 to 1, for jitter
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
	var err error
	if w.tell, err = newInstruments(o.Meters, o.Tracers); err != nil {
		return nil, fmt.Errorf("worker metrics: %w", err)
	}
	if err := w.observeBreakers(o.Meters); err != nil {
		return nil, fmt.Errorf("worker metrics: %w", err)
	}
	return w, nil
}

// ImageLogger is the name of the logger of the lines of which each image has one.
const ImageLogger = "image"

func newWorker(r records, signer Signer, o Options, log *zap.Logger) *Worker {
	silent, _ := newInstruments(nil, nil) // they have nothing to complain of
	w := &Worker{
		options: o, records: r, signer: signer, log: log, images: log.Named(ImageLogger), tell: silent,
		control: newControl(r, log),
		inWork:  newInWork(o, log),
		sharing: newSharing(o),
		random:  rand.Float64,
	}
	w.gate = newKeyGate(o, log, w.part)
	return w
}

// Run serves the lanes until ctx ends. It then stops asking for requests,
// finishes those in flight within ShutdownGrace, gives the rest back and
// returns nil. It does the same, and returns a [*KeysAwayError], when the keys
// are away for longer than KeyPatience.
func (w *Worker) Run(ctx context.Context) error {
	lanes := []lane{laneOf(w.conn.BulkLane(), queue.LaneBulk, w.options.Jobs)}
	if w.options.EventJobs > 0 {
		lanes = append(lanes, laneOf(w.conn.EventLane(), queue.LaneEvent, w.options.EventJobs))
	}
	return w.run(ctx, lanes)
}

func (w *Worker) run(ctx context.Context, lanes []lane) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	work, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	w.tell.begin(work, lanes)
	told := context.AfterFunc(ctx, func() { w.tell.draining.Record(work, 1) })
	defer told()
	stopGrace := context.AfterFunc(ctx, func() {
		grace := time.AfterFunc(w.options.ShutdownGrace, func() { abort(errDrained) })
		context.AfterFunc(work, func() { grace.Stop() })
	})
	defer stopGrace()

	serving, served := context.WithCancel(context.WithoutCancel(ctx))
	var beside sync.WaitGroup
	defer beside.Wait()
	defer served()
	beside.Go(func() { w.watch(serving) })
	beside.Go(func() { w.announce(serving, ctx.Done()) })
	beside.Go(func() { w.hear(serving) })
	beside.Go(func() { w.gate.watch(serving, giveUp) })

	var each sync.WaitGroup
	for _, from := range lanes {
		each.Go(func() { w.serve(ctx, work, from) })
	}
	each.Wait()
	return keysAway(ctx)
}

// watchEvery is how often what is in work is looked at. With the age that an
// answer may have it bounds how long an image of a cancelled batch goes on.
const watchEvery = answerAge / 2

// watch aborts images that should not go on, until ctx ends.
func (w *Worker) watch(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		w.inWork.makeRoom()
		w.inWork.abortCancelled(func(r queue.Request) bool { return w.control.isCancelled(ctx, r) })
	}
}
