package worker

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// heartbeat tells the queue that a request is being worked on.
type heartbeat struct {
	once sync.Once
	quit chan struct{}
	done chan struct{}
}

// keepAlive starts the heartbeat of a job.
func (w *Worker) keepAlive(j *job) *heartbeat {
	h := &heartbeat{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(h.done)
		ticker := time.NewTicker(w.options.Heartbeat)
		defer ticker.Stop()
		for {
			select {
			case <-h.quit:
				return
			case <-ticker.C:
				if err := j.delivery.KeepAlive(); err != nil {
					w.log.Warn("cannot keep a request, another worker may get it too", zap.Error(err))
				}
			}
		}
	}()
	return h
}

// stop ends the heartbeat and returns when it has ended. It may be called twice.
func (h *heartbeat) stop() {
	h.once.Do(func() { close(h.quit) })
	<-h.done
}
