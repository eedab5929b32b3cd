package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
)

// sequences is how many random sequences are played.
const sequences = 1500

// TestModel plays random sequences of what can happen to a fleet: workers and
// the server crash between any two steps, calls fail before or after they had
// their effect, workers drain, images fail, hang and panic, batches are
// cancelled and retried, registries paused. Whatever happens, the accounts close.
//
// A sequence that fails is played again with SEED=<n> go test -run TestModel.
func TestModel(t *testing.T) {
	t.Parallel()
	if seed := os.Getenv("SEED"); seed != "" {
		n, err := strconv.ParseUint(seed, 10, 64)
		require.NoError(t, err, "SEED")
		play(t, n, true)
		return
	}
	first := rand.Uint64N(1 << 40)
	t.Logf("seeds from %d on", first)
	const players = 4
	for player := range players {
		t.Run(fmt.Sprint("player ", player), func(t *testing.T) {
			t.Parallel()
			for i := player; i < sequences; i += players {
				play(t, first+uint64(i), false)
			}
		})
	}
}

// plan is what is to go wrong in a sequence, and until when.
type plan struct {
	seed     uint64
	began    time.Time
	trouble  time.Duration
	crashes  float64 // at each call of a worker
	failures float64 // of each call
	restarts int     // of the server
	drains   bool
	ill      float64 // share of images that fail
}

func newPlan(seed uint64, random *rand.Rand) plan {
	p := plan{seed: seed, began: time.Now(), trouble: 4 * time.Minute, ill: 0.6 * random.Float64()}
	// Each kind of trouble alone and all together: what excuses nothing shows most.
	kinds := random.IntN(16)
	if kinds&1 != 0 {
		p.crashes = 0.1 * random.Float64()
	}
	if kinds&2 != 0 {
		p.failures = 0.2 * random.Float64()
	}
	if kinds&4 != 0 {
		p.restarts = 1 + random.IntN(4)
	}
	p.drains = kinds&8 != 0
	return p
}

// calm is when nothing goes wrong any more.
func (p plan) calm() bool { return time.Since(p.began) > p.trouble }

// smooth reports that no call can fail or be lost.
func (p plan) smooth() bool { return p.failures == 0 && p.restarts == 0 }

func modelOptions(name string) Options {
	o := DefaultOptions()
	o.Name, o.Jobs, o.EventJobs = name, 2, 0
	o.Attempts, o.MaxDeaths = 3, 2
	o.Timeout, o.MaxWait = 2*time.Minute, 20*time.Minute
	o.ShutdownGrace = 5 * time.Second
	return o
}

func play(t *testing.T, seed uint64, aloud bool) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		s := newServer(newPlan(seed, random))
		if aloud {
			s.log = t.Logf
		}
		again := fmt.Sprintf("play it again: SEED=%d go test -run TestModel ./internal/worker", seed)
		for i := range 1 + random.IntN(4) {
			s.publish(queue.Request{
				Batch: "b", Seq: i + 1, Line: queue.Text(fmt.Sprintf("line %d", i+1)), Reference: fmt.Sprintf("r%d.example/app:%d", i%2, i),
			}.Sealed())
		}
		ctx, end := context.WithCancel(t.Context())
		var fleet sync.WaitGroup
		for n := range 1 + random.IntN(2) {
			lives := rand.New(rand.NewPCG(seed, uint64(n)+1))
			fleet.Go(func() { s.employ(ctx, n, lives) })
		}
		people := rand.New(rand.NewPCG(seed, 100))
		fleet.Go(func() { s.operate(ctx, people) })
		deadline := time.Now().Add(12 * time.Hour)
		for !s.over() && time.Now().Before(deadline) {
			time.Sleep(10 * time.Second)
		}
		over := s.over()
		end()
		fleet.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		require.True(t, over, "a request is left: %s", again)
		require.Empty(t, s.wrong, again)
		require.Empty(t, s.books.audit(s.excused), again)
		require.Empty(t, s.unjust(), again)
		if s.plan.smooth() {
			require.Empty(t, s.books.present, "a worker is listed that is gone: %s", again)
		}
	})
}

// over reports that there is nothing left to do, and nobody who asks for more.
func (s *server) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.messages) == 0 && s.retired
}

func (s *server) excused(key string) bool {
	f := s.facts[key]
	return f.left || f.unheard > 0
}

// unjust are outcomes that say more than what happened, needs mu.
func (s *server) unjust() []string {
	var wrong []string
	limits := modelOptions("")
	for _, o := range s.books.outcomes {
		key := keyOf(o.Batch, o.ID, o.Gen)
		f := s.facts[key]
		switch {
		case o.Attempts > limits.Attempts:
			wrong = append(wrong, fmt.Sprintf("%s: %d attempts", key, o.Attempts))
		case o.Attempts > f.tries:
			wrong = append(wrong, fmt.Sprintf("%s: %d attempts of which %d were made", key, o.Attempts, f.tries))
		case f.tries-f.polite > limits.Attempts+f.deaths+f.unheard:
			wrong = append(wrong, fmt.Sprintf("%s: tried %d times", key, f.tries))
		case o.Class == Poison && f.deaths+f.unheard <= limits.MaxDeaths:
			wrong = append(wrong, fmt.Sprintf("%s: poison after %d deaths", key, f.deaths))
		}
	}
	return wrong
}

// employ runs one worker after another until ctx ends. Each drains or dies at
// some time, or lives on.
func (s *server) employ(ctx context.Context, n int, random *rand.Rand) {
	for life := 0; ctx.Err() == nil; life++ {
		running, stop := context.WithCancel(ctx)
		p := &process{server: s, number: n<<8 | life, stop: stop, randoms: make(map[string]*rand.Rand)}
		w := newWorker(p, &modelSigner{process: p}, modelOptions(fmt.Sprintf("w%d-%d", n, life)), zap.NewNop())
		w.random = func() float64 { return 0.5 }
		s.mu.Lock()
		calm := s.plan.calm()
		s.mu.Unlock()
		if s.plan.drains && !calm {
			time.AfterFunc(time.Duration(random.Int64N(int64(2*time.Minute))), stop)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended) // also when the process dies
			_ = w.run(running, []lane{{name: queue.LaneBulk, jobs: 2, next: p.next}})
		}()
		<-ended
		stop()
		s.mu.Lock()
		if p.dead {
			delete(s.books.present, w.options.Name) // it is forgotten
		}
		s.mu.Unlock()
		pause(ctx, time.Duration(random.Int64N(int64(10*time.Second))))
	}
}

// operate does what people do, and has the server crash.
func (s *server) operate(ctx context.Context, random *rand.Rand) {
	defer s.retire("r0.example")
	for restarts := s.plan.restarts; ; {
		pause(ctx, time.Duration(random.Int64N(int64(time.Minute))))
		if s.isCalm() || ctx.Err() != nil {
			return
		}
		switch random.IntN(6) {
		case 0:
			if restarts > 0 {
				restarts--
				s.crash(random)
			}
		case 1:
			s.cancel(random)
		case 2, 3:
			s.retry(random)
		case 4:
			s.pauseHost("r0.example")
		case 5:
			s.resume("r0.example")
		}
	}
}

// retire ends what people do.
func (s *server) retire(host string) {
	s.resume(host)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
}

func (s *server) isCalm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan.calm()
}

func (s *server) cancel(random *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.cancelled["b"]; !ok && random.IntN(3) == 0 {
		s.cancelled["b"] = cancelledAt{gen: random.IntN(2), at: time.Now()}
	}
}

// retry asks once more for what failed, as its record has it.
func (s *server) retry(random *rand.Rand) {
	var retried []queue.Request
	s.mu.Lock()
	for _, o := range s.books.outcomes {
		r, ok := s.failedRequest(o)
		if !ok || o.Gen == 2 || random.IntN(2) == 0 {
			continue
		}
		r.Gen++
		r.Identity = fmt.Sprint(r.Gen)
		if _, asked := s.facts[requestKey(r)]; !asked {
			retried = append(retried, r)
		}
	}
	s.mu.Unlock()
	for _, r := range retried {
		s.publish(r)
	}
}

func (s *server) failedRequest(o queue.Outcome) (queue.Request, bool) {
	if o.Verdict == queue.Cancelled {
		return *o.Request, true
	}
	for _, letter := range s.books.letters {
		if requestKey(letter.Request) == keyOf(o.Batch, o.ID, o.Gen) {
			return letter.Request, true
		}
	}
	return queue.Request{}, false
}

func (s *server) pauseHost(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.paused[host]; !ok {
		s.paused[host] = time.Now()
	}
}

func (s *server) resume(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.paused, host)
}

// modelSigner signs images of which some fail, hang or kill.
type modelSigner struct {
	process *process
}

func (m *modelSigner) Sign(ctx context.Context, r sign.Request) (sign.Result, error) {
	p := m.process
	s := p.server
	key, random := s.begin(p, r)
	if random.Float64() < s.plan.crashes && !s.isCalm() {
		p.perish()
	}
	kind := random.Float64()
	took := time.Duration(random.Int64N(int64(5 * time.Second)))
	if random.IntN(20) == 0 {
		took = time.Hour // it hangs
	}
	s.tell("worker %d: signs %s", p.number, key)
	err := p.sleep(ctx, took)
	var late *deadline.TimeoutError
	ill := s.plan.ill
	polite := err == nil && kind < 0.1*ill
	if err == nil || errors.As(err, &late) {
		s.tried(key, polite)
	}
	switch {
	case err != nil:
		return sign.Result{}, err
	case polite:
		return sign.Result{}, answered(429, 10*time.Second)
	case kind < 0.7*ill:
		return sign.Result{}, answered(500, 0)
	case kind < 0.9*ill:
		return oneSigned, answered(404, 0)
	case kind < ill:
		panic("boom")
	}
	return oneSigned, nil
}

// begin notes an attempt, which may not be of what is cancelled or paused. The
// identity tells the generations of an image apart.
func (s *server) begin(p *process, r sign.Request) (key string, random *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, asked := range s.books.published {
		if asked.Reference == r.Reference && asked.Identity == r.Identity {
			key = requestKey(asked)
			s.mustRun(asked)
		}
	}
	return key, s.randomOf(fmt.Sprint("sign", key, p.number, time.Since(s.plan.began)))
}

// mustRun complains about work on what was stopped long enough ago.
func (s *server) mustRun(r queue.Request) {
	if !s.plan.smooth() {
		return
	}
	const soon = 2*answerAge + 100*time.Millisecond
	if c, ok := s.cancelled[r.Batch]; ok && r.Gen <= c.gen && time.Since(c.at) > soon {
		s.complain("%s: begun %s after it was cancelled", requestKey(r), time.Since(c.at))
	}
	if at, ok := s.paused[hostOf(r.Reference)]; ok && time.Since(at) > soon {
		s.complain("%s: begun %s after its registry was paused", requestKey(r), time.Since(at))
	}
}

// tried notes an attempt that came to its end; polite is one that was asked to
// come later.
func (s *server) tried(key string, polite bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.facts[key]; ok {
		f.tries++
		if polite {
			f.polite++
		}
	}
}
