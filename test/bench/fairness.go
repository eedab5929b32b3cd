package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/worker"
	"github.com/signfleet/signfleet/test/peers"
)

// The fleet whose fairness is measured, and how long its signing takes.
const (
	fleetWorkers = 4
	fleetJobs    = 8
	signingTakes = 20 * time.Millisecond
)

// fairness submits a small batch and single events behind a very large batch and
// tells how long they took.
func fairness(ctx context.Context, server *peers.NATS, ahead int) ([]Figure, error) {
	conn, err := connect(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := publish(ctx, conn, "large", ahead); err != nil {
		return nil, err
	}
	ends := &endings{at: make(map[string][]time.Time)}
	working, stop := context.WithCancel(ctx)
	defer stop()
	group, working := errgroup.WithContext(working)
	for n := range fleetWorkers {
		w, closeWorker, err := newWorker(ctx, server, fmt.Sprintf("bench-%d", n), ends)
		if err != nil {
			return nil, err
		}
		defer closeWorker()
		group.Go(func() error { return w.Run(working) })
	}
	var figures []Figure
	group.Go(func() (err error) {
		defer stop()
		figures, err = overtake(ctx, conn, ends)
		return err
	})
	return figures, group.Wait()
}

func newWorker(ctx context.Context, server *peers.NATS, name string, ends *endings) (*worker.Worker, func(), error) {
	conn, err := queue.Connect(ctx, queue.Options{URL: server.URL()})
	if err != nil {
		return nil, nil, err
	}
	if err := conn.Ensure(ctx); err != nil {
		conn.Close()
		return nil, nil, err
	}
	limits := worker.DefaultOptions()
	limits.Name, limits.Jobs, limits.EventJobs = name, fleetJobs, fleetJobs/4
	w, err := worker.New(conn, noSigner{takes: signingTakes, done: ends.note}, limits, zap.NewNop())
	return w, conn.Close, err
}

// overtake waits until the fleet is busy and submits what should not have to wait.
func overtake(ctx context.Context, conn *queue.Conn, ends *endings) ([]Figure, error) {
	if err := ends.await(ctx, "large", 1000); err != nil {
		return nil, err
	}
	const small, events = 100, 20
	began := time.Now()
	if err := publish(ctx, conn, "small", small); err != nil {
		return nil, err
	}
	if err := ends.await(ctx, "small", small); err != nil {
		return nil, err
	}
	batch := ends.since("small", began)
	var waits []time.Duration
	for n := range events {
		began := time.Now()
		r := queue.Request{Batch: "push", Seq: n + 1, Reference: fmt.Sprintf("registry.example.org/push/event:%d", n), Timeout: queue.Seconds(time.Minute), SubmittedAt: began}
		if err := conn.PublishEvent(ctx, "bench", r.Sealed()); err != nil {
			return nil, err
		}
		if err := ends.await(ctx, "push", n+1); err != nil {
			return nil, err
		}
		all := ends.since("push", began)
		waits = append(waits, all[len(all)-1])
	}
	slices.Sort(waits)
	behind := fmt.Sprintf("%d requests, one signing takes %s", small, signingTakes)
	beside := fmt.Sprintf("%d events, one signing takes %s", events, signingTakes)
	return []Figure{
		{"first of a batch behind a large one", behind, asMilliseconds(batch[0]), "ms"},
		{"last of a batch behind a large one", behind, asMilliseconds(batch[small-1]), "ms"},
		{"event beside a large batch, median", beside, asMilliseconds(waits[events/2]), "ms"},
		{"event beside a large batch, worst", beside, asMilliseconds(waits[events-1]), "ms"},
	}, nil
}

// endings are the times at which images were signed, by the kind of their batch.
type endings struct {
	mu sync.Mutex
	at map[string][]time.Time
}

func (e *endings) note(r sign.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kind := strings.Split(r.Reference, "/")[1]
	e.at[kind] = append(e.at[kind], time.Now())
}

// since is how long after a time each image of a kind was signed.
func (e *endings) since(kind string, began time.Time) []time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]time.Duration, 0, len(e.at[kind]))
	for _, at := range e.at[kind] {
		all = append(all, at.Sub(began))
	}
	return all
}

// await returns when so many images of a kind were signed.
func (e *endings) await(ctx context.Context, kind string, n int) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		e.mu.Lock()
		have := len(e.at[kind])
		e.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
