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

// speakEvery is how often at most a worker speaks out of turn.
const speakEvery = 200 * time.Millisecond

// announce tells the fleet that this worker is there and what it has in hand,
// until ctx ends: again and again, at once when it begins to drain, and soon
// when a registry asks for fewer requests. That the queue does not take it
// disturbs nothing else.
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
		p.InWork, p.Hosts = w.inWork.count(), w.sharing.tell(w.inWork.told())
		heard = w.say(ctx, p, heard)
		switch w.awaitWord(ctx, ticker.C, drain) {
		case beat:
			w.sharing.heed()
		case draining:
			p.Draining, drain = true, nil
		case leaving:
			w.withdraw(ctx, heard)
			return
		}
	}
}

// word is why a worker announces itself again.
type word int

const (
	beat word = iota // it was silent for AnnounceEvery
	news             // of a registry
	draining
	leaving
)

// awaitWord returns when there is something to announce. News that comes within
// speakEvery of the last announcement is told together. That there are requests
// for a registry for the first time is no news that anybody brings: it is looked for.
func (w *Worker) awaitWord(ctx context.Context, beats <-chan time.Time, drain <-chan struct{}) word {
	look := time.NewTicker(speakEvery)
	defer look.Stop()
	var throttled, other <-chan struct{} // not yet
	for {
		select {
		case <-look.C:
			if w.sharing.untold() {
				return news
			}
			throttled, other = w.sharing.throttle.Throttled(), w.sharing.news
		case <-beats:
			return beat
		case <-throttled:
			return news
		case <-other:
			return news
		case <-drain:
			return draining
		case <-ctx.Done():
			return leaving
		}
	}
}

func (w *Worker) withdraw(ctx context.Context, heard bool) {
	farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawPatience)
	defer cancel()
	if err := w.records.Withdraw(farewell, w.options.Name); err != nil && heard {
		w.log.Warn("cannot withdraw from the workers, it is listed for some seconds more", zap.Error(err))
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
