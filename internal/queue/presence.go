package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// PresenceLife is how long a worker counts as live that says nothing more.
const PresenceLife = workersAge

// Presence is what a live worker says of itself. It is forgotten when it is not
// said again within PresenceLife.
type Presence struct {
	Version int    `json:"version"`
	Worker  string `json:"worker"`
	Host    string `json:"host"`
	// Program is the version of the worker's program.
	Program   string    `json:"program"`
	Jobs      int       `json:"jobs"`
	EventJobs int       `json:"event_jobs"`
	InWork    int       `json:"in_work"`
	Draining  bool      `json:"draining"`
	StartedAt time.Time `json:"started_at"`
	SeenAt    time.Time `json:"seen_at"`
	// Hosts are the registries that there is something to tell of.
	Hosts []HostState `json:"hosts,omitempty"`
}

// HostState is what a worker knows of a registry.
type HostState struct {
	Host   string `json:"host"`
	InWork int    `json:"in_work"`
	// Open is true while the worker leaves the registry alone, until Until.
	Open   bool      `json:"open"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`

	// Demand is how many requests of the worker wait or are under way there, and
	// Accepted how much a second is answered other than "too many".
	Demand   int     `json:"demand,omitempty"`
	Accepted float64 `json:"accepted,omitempty"`
	// PausedFor is how long the registry is left alone because it asked for that,
	// from SeenAt on: clocks need not agree.
	PausedFor Seconds `json:"paused_for,omitempty"`
	// FailedRate is how much a second, by the whole fleet, was too much for the
	// registry; with FailedSearch it is a rate to look for that from. FailedBegan is
	// how long before SeenAt the pause for it began, and FailedAgo when it was over.
	FailedRate   float64 `json:"failed_rate,omitempty"`
	FailedSearch bool    `json:"failed_search,omitempty"`
	FailedBegan  Seconds `json:"failed_began,omitempty"`
	FailedAgo    Seconds `json:"failed_ago,omitempty"`
}

// Announce says that a worker is alive.
func (c *Conn) Announce(ctx context.Context, p Presence) error {
	p.Version = version
	p.SeenAt = time.Now().UTC()
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode presence: %w", err)
	}
	if err := c.bucket(c.names.workers).put(ctx, p.Worker, data); err != nil {
		return fmt.Errorf("announce worker %s: %w", p.Worker, err)
	}
	return nil
}

// Withdraw says that a worker is gone.
func (c *Conn) Withdraw(ctx context.Context, worker string) error {
	if err := c.bucket(c.names.workers).purge(ctx, worker, 0); err != nil {
		return fmt.Errorf("withdraw worker %s: %w", worker, err)
	}
	return nil
}

// Present are the workers that were alive within the last 15 s, by name.
func (c *Conn) Present(ctx context.Context) ([]Presence, error) {
	var present []Presence
	err := scanBucket(ctx, c, c.names.workers, "*", func(key string, p Presence) error {
		if p.Worker == key {
			present = append(present, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	slices.SortFunc(present, func(a, b Presence) int { return strings.Compare(a.Worker, b.Worker) })
	return present, nil
}
