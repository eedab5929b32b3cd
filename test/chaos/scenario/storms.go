package scenario

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
)

// What images may die of where their registry is ill.
var registryClasses = []string{"network", "registry-unavailable", "rate-limited", "timeout"}

// poison is what an image ends as that was in work at more deaths of workers
// than is bearable: who kills at random may hit it.
const poison = "poison"

func storms() []storm {
	return []storm{
		{
			name: "kill", does: "random workers are killed with SIGKILL and started again",
			mayFail: []string{poison}, rage: repeated(time.Second, 4*time.Second, (*scene).killWorker),
		},
		{
			name: "roll", does: "workers are restarted one after the other with SIGTERM",
			rage: repeated(0, 200*time.Millisecond, (*scene).roll),
		},
		{
			name: "stop", does: "a worker is stopped for longer than its locks last, while two keys sign the same images",
			keys: 2, batches: 2, rage: once((*scene).stopWorker),
		},
		{
			name: "nats", does: "the single nats-server is killed with SIGKILL and started again, or hangs for a while",
			rage: repeated(500*time.Millisecond, 3*time.Second, (*scene).harmNATS),
		},
		{
			name: "leader", does: "the leader of a stream is killed in a cluster of three, or hangs until there is another",
			cluster: true, rage: repeated(500*time.Millisecond, 2*time.Second, (*scene).harmLeader),
		},
		{
			name: "full", does: "the streams of outcomes and of dead letters are full for a while",
			rage: repeated(100*time.Millisecond, time.Second, (*scene).fillOutcomes),
		},
		{
			name: "registry", does: "the registry is away for a while",
			mayFail: registryClasses, rage: repeated(500*time.Millisecond, 3*time.Second, (*scene).stopRegistry),
		},
		{
			name: "faults", does: "the registry answers a share of the requests with 500, 429 and not at all",
			mayFail: registryClasses, rage: repeated(0, time.Second, (*scene).spoil),
		},
		{
			name: "cut", does: "links between workers and the nats-server are cut, refused and stalled, while two keys sign the same images",
			keys: 2, batches: 2, rage: repeated(100*time.Millisecond, 2*time.Second, (*scene).harmLink),
		},
		{
			name: "submitter", does: "the submitter is killed with SIGKILL in the middle of publishing, again and again",
			submit: killSubmitters,
		},
		{
			name: "mix", does: "all of these at random, while two keys sign the same images",
			keys: 2, batches: 2, mayFail: append([]string{poison}, registryClasses...),
			rage: together(
				oneOf((*scene).killWorker, (*scene).roll, (*scene).pauseWorker),
				oneOf((*scene).harmNATS, (*scene).fillOutcomes, (*scene).stopRegistry, (*scene).spoil, (*scene).harmLink),
			),
		},
		{
			name: "cluster", does: "workers, leaders of streams and the registry at random, in a cluster of three",
			cluster: true, keys: 2, batches: 2, mayFail: append([]string{poison}, registryClasses...),
			rage: together(
				oneOf((*scene).killWorker, (*scene).roll, (*scene).pauseWorker),
				oneOf((*scene).harmLeader, (*scene).fillOutcomes, (*scene).stopRegistry, (*scene).spoil),
			),
		},
	}
}

// repeated does something again and again, with a pause before each time.
func repeated(low, high time.Duration, do func(*scene, context.Context) error) func(context.Context, *scene) error {
	return func(ctx context.Context, sc *scene) error {
		for sc.rest(ctx, low, high) {
			if err := do(sc, ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

func once(do func(*scene, context.Context) error) func(context.Context, *scene) error {
	return func(ctx context.Context, sc *scene) error { return do(sc, ctx) }
}

// oneOf does one of several things after the other.
func oneOf(actions ...func(*scene, context.Context) error) func(context.Context, *scene) error {
	return repeated(100*time.Millisecond, time.Second, func(sc *scene, ctx context.Context) error {
		return actions[sc.random.IntN(len(actions))](sc, ctx)
	})
}

// together does several things side by side.
func together(rages ...func(context.Context, *scene) error) func(context.Context, *scene) error {
	return func(ctx context.Context, sc *scene) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, rage := range rages {
			mine := *sc
			mine.run = sc.fork()
			group.Go(func() error { return rage(ctx, &mine) })
		}
		return group.Wait()
	}
}

func (sc *scene) anyWorker() *fleet.Worker {
	return sc.Workers()[sc.random.IntN(len(sc.Workers()))]
}

func (sc *scene) killWorker(ctx context.Context) error {
	sc.did("SIGKILL of a worker")
	w := sc.anyWorker()
	sc.mu.Lock()
	*sc.kills = append(*sc.kills, time.Now())
	sc.mu.Unlock()
	if err := w.Kill(); err != nil {
		return err
	}
	sc.rest(ctx, 0, time.Second)
	return w.Start(ctx)
}

func (sc *scene) roll(ctx context.Context) error {
	for _, w := range sc.Workers() {
		sc.did("SIGTERM of a worker")
		began := time.Now()
		// A drain that has begun is waited for, whatever ends meanwhile.
		if err := w.Terminate(context.WithoutCancel(ctx), time.Minute); err != nil {
			return err
		}
		sc.bound("SIGTERM to the end of a worker", time.Since(began))
		if err := w.Start(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

func (sc *scene) stopWorker(ctx context.Context) error {
	// It has work by then, as long as there is some.
	sc.rest(ctx, time.Second, 2*time.Second)
	sc.did("SIGSTOP of a worker")
	w := sc.anyWorker()
	if err := w.Stop(); err != nil {
		return err
	}
	// The others are done before; what is left is what the worker has.
	sc.rest(context.WithoutCancel(ctx), sc.config.Stop, sc.config.Stop)
	return w.Continue()
}

func (sc *scene) harmNATS(ctx context.Context) error {
	return sc.harmServer(ctx, sc.NATS(), "nats-server", 2*time.Second, 3*ackWait)
}

func (sc *scene) harmLeader(ctx context.Context) error {
	streams, err := sc.Streams(ctx)
	if err != nil {
		return err
	}
	stream := streams[sc.random.IntN(len(streams))]
	leader, err := sc.Cluster().Leader(ctx, stream)
	if err != nil {
		return err
	}
	// The others elect a leader after 4 to 9 seconds.
	if err := sc.harmServer(ctx, leader, "the leader of "+stream, 3*time.Second, 12*time.Second); err != nil {
		return err
	}
	// With two of three behind there would be no cluster to speak of.
	return sc.Cluster().AwaitCurrent(ctx)
}

// harmServer kills a server and starts it again after a while, or stops it for a
// while with its connections open.
func (sc *scene) harmServer(ctx context.Context, server *peers.NATS, name string, down, hangs time.Duration) error {
	if sc.random.IntN(3) == 0 {
		sc.did("SIGSTOP of a nats-server")
		sc.Log("SIGSTOP %s (%s)", name, server.URL())
		if err := server.Pause(); err != nil {
			return err
		}
		sc.rest(ctx, hangs/4, hangs)
		sc.Log("SIGCONT %s", name)
		return server.Continue()
	}
	sc.did("SIGKILL of a nats-server")
	sc.Log("kill -9 %s (%s)", name, server.URL())
	if err := server.Kill(); err != nil {
		return err
	}
	sc.rest(ctx, 0, down)
	sc.Log("%s starts", name)
	return server.Start(context.WithoutCancel(ctx))
}

// fillOutcomes leaves room for very few records, and looks whether requests
// leave the queue without one.
func (sc *scene) fillOutcomes(ctx context.Context) error {
	stream := "SIGN_OUTCOMES"
	if sc.random.IntN(3) == 0 {
		stream = "SIGN_DEAD"
	}
	before, err := sc.Limit(ctx, stream, 0)
	if err != nil {
		return err
	}
	sc.did("filling of " + stream)
	sc.rest(ctx, time.Second, 3*time.Second)
	sc.checkKept(ctx)
	_, err = sc.Limit(context.WithoutCancel(ctx), stream, before)
	return err
}

// checkKept complains where a request is neither in the queue nor has an
// outcome. The queue is counted first: an outcome comes before the end of its request.
func (sc *scene) checkKept(ctx context.Context) {
	for _, submission := range sc.submissions {
		if !submission.Published() {
			continue
		}
		left, leftErr := sc.Left(ctx, submission.Batch)
		done, doneErr := sc.Done(ctx, submission.Batch)
		if leftErr == nil && doneErr == nil && left+done < submission.Requests() {
			sc.complain("batch %s: of %d requests %d are in the queue and %d have an outcome", submission.Batch, submission.Requests(), left, done)
		}
	}
}

func (sc *scene) stopRegistry(ctx context.Context) error {
	sc.did("stop of the registry")
	sc.Log("the registry stops")
	if err := sc.Registry().Kill(); err != nil {
		return err
	}
	sc.rest(ctx, time.Second, 3*time.Second)
	sc.Log("the registry starts")
	return sc.Registry().Start(context.WithoutCancel(ctx))
}

func (sc *scene) spoil(ctx context.Context) error {
	share := 0.02 + 0.18*sc.random.Float64()
	sc.did("spoiling of requests")
	sc.Log("%.0f %% of the requests are spoiled", 100*share)
	sc.Faults().Spoil(share, sc.random.Uint64())
	sc.rest(ctx, time.Second, 3*time.Second)
	sc.Faults().Spoil(0, 0)
	return nil
}

func (sc *scene) harmLink(ctx context.Context) error {
	some := []*fleet.Worker{sc.anyWorker()}
	if sc.random.IntN(3) == 0 {
		some = sc.Workers()
	}
	harm := []string{"cut", "refused", "stalled"}[sc.random.IntN(3)]
	sc.Log("links of %d workers: %s", len(some), harm)
	sc.did("links " + harm)
	for _, w := range some {
		switch harm {
		case "stalled":
			w.Link().Stall()
			continue
		case "refused":
			w.Link().Refuse(true)
		}
		w.Link().Cut()
	}
	sc.rest(ctx, 100*time.Millisecond, 2*ackWait)
	for _, w := range some {
		w.Link().Refuse(false)
		if harm == "stalled" && sc.random.IntN(2) == 0 {
			w.Link().Cut() // what is on its way is lost
		}
		w.Link().Resume()
	}
	return nil
}

// pauseWorker stops a worker for longer than the ack wait.
func (sc *scene) pauseWorker(ctx context.Context) error {
	sc.did("SIGSTOP of a worker")
	w := sc.anyWorker()
	if err := w.Stop(); err != nil {
		return err
	}
	sc.rest(ctx, ackWait, 3*ackWait)
	return w.Continue()
}
