package worker

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// modelAckWait is after what time without a sign of life a request comes again.
const modelAckWait = 30 * time.Second

// server is a queue in memory that does what the real one is known to do: it
// delivers again after the ack wait, honours what a late worker says, loses
// answers, crashes and forgets.
type server struct {
	plan plan

	mu        sync.Mutex
	wake      chan struct{} // closed when there is something new
	down      time.Time     // until when it answers nobody
	epoch     int           // crashes so far
	messages  map[string]*message
	cancelled map[string]cancelledAt
	paused    map[string]time.Time
	retired   bool // people ask for nothing more
	books     books
	facts     map[string]*facts
	wrong     []string // what must never happen, and did
	log       func(format string, args ...any)
}

type message struct {
	request   queue.Request
	delivered int
	due       time.Time
	holder    *handed // nil when nobody has it
}

// handed is a message in the hands of a worker.
type handed struct {
	server  *server
	process *process
	key     string
	expires time.Time
	random  *rand.Rand // of the worker's calls about it
	beats   *rand.Rand // of its signs of life
}

type cancelledAt struct {
	gen int
	at  time.Time
}

// facts are what really happened to a request, for the accounts.
type facts struct {
	deaths  int  // workers that died with it
	unheard int  // workers that did not die, and were not heard: calls that failed, crashes of the server
	tries   int  // at signing that came to their end
	polite  int  // of those, how many were asked to come later
	left    bool // its worker died before it could clear the ledger
}

func newServer(p plan) *server {
	return &server{
		plan: p, wake: make(chan struct{}), messages: make(map[string]*message),
		cancelled: make(map[string]cancelledAt), paused: make(map[string]time.Time),
		books: newBooks(), facts: make(map[string]*facts),
	}
}

func (s *server) publish(r queue.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.books.published = append(s.books.published, r)
	s.messages[requestKey(r)] = &message{request: r, due: time.Now()}
	s.facts[requestKey(r)] = new(facts)
	s.changed()
}

// changed needs mu, as all that follow.
func (s *server) changed() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// tell writes down what happens, where a sequence is played again.
func (s *server) tell(format string, args ...any) {
	if s.log != nil {
		s.log("%s "+format, append([]any{time.Since(s.plan.began)}, args...)...)
	}
}

func (s *server) complain(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// randomOf is the chance in one matter alone, so that a sequence can be played
// again whatever order the goroutines of an instant take.
func (s *server) randomOf(matter string) *rand.Rand {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(matter)) // it cannot fail
	return rand.New(rand.NewPCG(s.plan.seed, hash.Sum64()))
}

// claim hands a worker one message that is due, or says when there will be one.
func (s *server) claim(p *process) (got []*job, next time.Time) {
	now := time.Now()
	next = now.Add(time.Hour)
	if now.Before(s.down) {
		return nil, s.down
	}
	for _, r := range s.books.published { // in the same order each time
		key := requestKey(r)
		m, ok := s.messages[key]
		if !ok {
			continue
		}
		due := m.due
		if m.holder != nil {
			due = m.holder.expires
		}
		if due.After(now) || len(got) > 0 {
			next = earlier(next, due)
			continue
		}
		if h := m.holder; h != nil && h.process.dead {
			s.facts[key].deaths++
		} else if h != nil {
			s.facts[key].unheard++
		}
		m.delivered++
		m.holder = &handed{
			server: s, process: p, key: key, expires: now.Add(modelAckWait),
			random: s.randomOf(fmt.Sprint(p.number, key, now.Sub(s.plan.began))), beats: s.randomOf(fmt.Sprint("beat", p.number, key, now.Sub(s.plan.began))),
		}
		p.randoms[key] = m.holder.random
		s.tell("worker %d: gets %s, delivery %d", p.number, key, m.delivered)
		j := newJob(&queue.Delivery{Request: r, Delivered: m.delivered, StoredAt: now, Lane: queue.LaneBulk})
		j.delivery = m.holder
		got = append(got, j)
	}
	return got, next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// crash restarts the server: calls under way fail, and of deliveries it may
// remember less than there were.
func (s *server) crash(random *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell("the server crashes")
	s.epoch++
	s.down = time.Now().Add(time.Duration(random.Int64N(int64(20 * time.Second))))
	for _, r := range s.books.published {
		m, ok := s.messages[requestKey(r)]
		if !ok {
			continue
		}
		s.facts[requestKey(r)].unheard++
		m.delivered = random.IntN(m.delivered + 1) // it may have forgotten some
		if m.holder != nil && random.IntN(3) == 0 {
			m.holder, m.due = nil, s.down // who had it is still at it
		}
	}
	s.changed()
}
