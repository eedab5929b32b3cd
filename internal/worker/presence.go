package worker

import (
	"context"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
)

// withdrawPatience bounds the farewell of a worker: who does not hear it will
// miss the signs of life.
const withdrawPatience = 2 * time.Second

// announce tells the fleet that this worker is there and what it has in hand,
// until ctx ends: again and again, and at once when it begins to drain. That
// the queue does not take it disturbs nothing else.
func (w *Worker) announce(ctx context.Context, drain <-chan struct{}) {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = ""
	}
	p := queue.Presence{
		Worker: w.options.Name, Host: hostname, Program: w.options.Program,
		Jobs: w.options.Jobs, EventJobs: w.options.EventJobs, StartedAt: time.Now().UTC(),
	}
	ticker := time.NewTicker(w.options.AnnounceEvery)
	defer ticker.Stop()
	heard := true
	for {
		p.InWork, p.Hosts = w.inWork.count(), w.inWork.told()
		heard = w.say(ctx, p, heard)
		select {
		case <-ticker.C:
		case <-drain:
			p.Draining, drain = true, nil
		case <-ctx.Done():
			farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawPatience)
			defer cancel()
			if err := w.records.Withdraw(farewell, w.options.Name); err != nil && heard {
				w.log.Warn("cannot withdraw from the workers, it is listed for some seconds more", zap.Error(err))
			}
			return
		}
	}
}

// say announces the worker once, and complains once an outage.
func (w *Worker) say(ctx context.Context, p queue.Presence, heard bool) bool {
	call, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	err := w.records.Announce(call, p)
	switch {
	case ctx.Err() != nil:
		return heard
	case err != nil && heard:
		w.log.Warn("cannot announce this worker, it goes on unlisted", zap.Error(err))
	case err == nil && !heard:
		w.log.Info("this worker is listed again")
	}
	return err == nil
}
