package main

import (
	"context"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// How often it is asked whether a worker is alive, and how long none may be
// before somebody who waits for them is told.
const (
	lookForWorkers  = 10 * time.Second
	withoutPatience = 30 * time.Second
)

// tellWithoutWorkers tells somebody who waits for a fleet, once, that none of its
// workers is alive. done must be called, and waits for its end.
func tellWithoutWorkers(ctx context.Context, present func(context.Context) ([]queue.Presence, error), p *progress) (done func()) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if waitUntilWithout(ctx, present) {
			p.interject("no worker is alive: the requests wait until one is started (sign-worker)\n")
		}
	}()
	return func() {
		stop()
		<-ended
	}
}

// waitUntilWithout returns true once no worker was alive for a while, and false
// when ctx ends first. Without an answer nothing is known of them.
func waitUntilWithout(ctx context.Context, present func(context.Context) ([]queue.Presence, error)) bool {
	ticker := time.NewTicker(lookForWorkers)
	defer ticker.Stop()
	alive := time.Now()
	for {
		workers, err := present(ctx)
		switch {
		case err != nil || len(workers) > 0:
			alive = time.Now()
		case time.Since(alive) >= withoutPatience:
			return true
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
}
