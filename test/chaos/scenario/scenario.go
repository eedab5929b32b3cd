// Package scenario is what may happen to a fleet while it signs: each scenario
// starts a fleet, has it sign a few hundred images, torments it meanwhile,
// heals it and closes its books.
//
// It decides what happens and when, from a seed; what must hold afterwards is
// the same for all scenarios and known to package accounting.
package scenario

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config is the size of a run.
type Config struct {
	// Binaries is the directory of sign-worker and sign-submit, Dir the one
	// below which each run keeps its logs.
	Binaries, Dir string
	// Images is how many lines a list has, Workers how many processes sign.
	Images, Workers int
	// Duration is how long a fleet is tormented, unless it is done before.
	Duration time.Duration
	// Stop is how long a worker is stopped for, and Lease how long its locks outlive it.
	Stop, Lease time.Duration
	// Verify bounds how many references of each key cosign is asked about; 0 means all.
	Verify int
	// Compare is true to have cosign alone do what signers at once do, for a comparison.
	Compare bool
	// Keep is true to keep the logs of a run without complaints too.
	Keep bool
	Seed uint64
}

// Scenario is one kind of torment.
type Scenario struct {
	Name, Does string
	run        func(context.Context, *run) error
}

// All are the scenarios, in the order in which they are worth running.
func All() []Scenario {
	var all []Scenario
	for _, s := range storms() {
		all = append(all, Scenario{Name: s.name, Does: s.does, run: s.run})
	}
	return append(all,
		Scenario{"cancel", "a batch is cancelled in the middle, and retried while a worker is killed", cancelAndRetry},
		Scenario{"throttle", "the registry takes so many requests a second and answers 429 to more, while a worker joins and another leaves", throttle},
		Scenario{"signers", "8 workers with 8 keys, and 8 submissions without a server, on one image at once", signers},
	)
}

// Find returns a scenario by its name.
func Find(name string) (Scenario, bool) {
	for _, s := range All() {
		if s.Name == name {
			return s, true
		}
	}
	return Scenario{}, false
}

// Report is how a run went.
type Report struct {
	Scenario string
	Config   Config
	Dir      string // of its logs; removed when there is nothing to complain of
	Took     time.Duration
	Lines    int
	Sum      map[string]int // outcomes by verdict and class
	Did      map[string]int // what was done to the fleet, and how often
	Verified int            // references that cosign was asked about
	Bounds   []Bound
	Notes    []string
	// Complaints are what does not add up.
	Complaints []string
}

// Bound is the longest time that something took.
type Bound struct {
	What    string
	Longest time.Duration
	Times   int
}

// Again is the command that repeats the run.
func (r Report) Again() string {
	c := r.Config
	return fmt.Sprintf("make chaos ARGS='-scenario %s -seed %d -images %d -workers %d -duration %s -stop %s -lease %s'",
		r.Scenario, c.Seed, c.Images, c.Workers, c.Duration, c.Stop, c.Lease)
}

// run is a run of a scenario in the making.
type run struct {
	config Config
	random *rand.Rand // of one goroutine

	mu     *sync.Mutex
	report *Report
}

// fork is the same run for another goroutine, with random choices of its own.
func (r *run) fork() *run {
	other := *r
	other.random = rand.New(rand.NewPCG(r.random.Uint64(), r.random.Uint64()))
	return &other
}

// Run runs a scenario. An error means that it could not be run; what does not
// add up is in the report.
func (s Scenario) Run(ctx context.Context, c Config) (*Report, error) {
	name := fnv.New64a()
	_, _ = name.Write([]byte(s.Name)) // it never fails
	dir, err := os.MkdirTemp(c.Dir, "chaos-"+s.Name+"-")
	if err != nil {
		return nil, err
	}
	r := &run{
		config: c, mu: &sync.Mutex{}, random: rand.New(rand.NewPCG(c.Seed, name.Sum64())),
		report: &Report{Scenario: s.Name, Config: c, Dir: dir, Sum: map[string]int{}, Did: map[string]int{}},
	}
	began := time.Now()
	err = s.run(ctx, r)
	r.report.Took = time.Since(began)
	if err != nil {
		return r.report, fmt.Errorf("scenario %s (seed %d, logs in %s): %w", s.Name, c.Seed, dir, err)
	}
	if len(r.report.Complaints) == 0 && c.Keep {
		return r.report, nil
	}
	if len(r.report.Complaints) == 0 {
		return r.report, os.RemoveAll(dir)
	}
	text := strings.Join(r.report.Complaints, "\n") + "\n\n" + r.report.Again() + "\n"
	return r.report, os.WriteFile(filepath.Join(dir, "complaints.txt"), []byte(text), 0o600)
}

// between is a random duration.
func (r *run) between(low, high time.Duration) time.Duration {
	return low + time.Duration(r.random.Int64N(int64(high-low)+1))
}

func (r *run) complain(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Complaints = append(r.report.Complaints, fmt.Sprintf(format, args...))
}

func (r *run) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Notes = append(r.report.Notes, fmt.Sprintf(format, args...))
}

// did counts what was done to the fleet.
func (r *run) did(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Did[what]++
}

// bound notes how long something took.
func (r *run) bound(what string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.report.Bounds {
		if b := &r.report.Bounds[i]; b.What == what {
			b.Longest = max(b.Longest, took)
			b.Times++
			return
		}
	}
	r.report.Bounds = append(r.report.Bounds, Bound{What: what, Longest: took, Times: 1})
}

// rest waits for a random time; it says false when ctx ends first.
func (r *run) rest(ctx context.Context, low, high time.Duration) bool {
	timer := time.NewTimer(r.between(low, high))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
