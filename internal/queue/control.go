package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The lanes, by the names under which an operator pauses them.
const (
	LaneBulk  = "bulk"
	LaneEvent = "event"
)

// Pause is a lane or a registry host that an operator has paused, until it is
// resumed.
type Pause struct {
	Version int `json:"version"`
	// Target is LaneBulk, LaneEvent or the host of a registry.
	Target string    `json:"target"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at"`
}

// controlKey is where a pause is stored: the names of hosts are no keys.
func controlKey(target string) string {
	if target == LaneBulk || target == LaneEvent {
		return "lane." + target
	}
	return "host." + hashName(target)
}

// Pause pauses a lane or a host.
func (c *Conn) Pause(ctx context.Context, p Pause) error {
	p.Version = version
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode pause: %w", err)
	}
	if err := c.bucket(c.names.control).put(ctx, controlKey(p.Target), data); err != nil {
		return fmt.Errorf("pause %s: %w", p.Target, err)
	}
	return nil
}

// Resume ends the pause of a lane or a host, and reports whether there was one.
func (c *Conn) Resume(ctx context.Context, target string) (was bool, err error) {
	_, was, err = c.Paused(ctx, target)
	if errors.Is(err, ErrUnreadable) {
		was, err = true, nil
	}
	if err == nil && was {
		err = c.bucket(c.names.control).purge(ctx, controlKey(target), 0)
	}
	if err != nil {
		return false, fmt.Errorf("resume %s: %w", target, err)
	}
	return was, nil
}

// Paused reads the pause of a lane or a host; ok is false when it is not paused.
func (c *Conn) Paused(ctx context.Context, target string) (p Pause, ok bool, err error) {
	stored, err := c.bucket(c.names.control).get(ctx, controlKey(target))
	if errors.Is(err, ErrNone) {
		return Pause{}, false, nil
	}
	if err == nil {
		err = decodeRecord(stored.data, &p)
	}
	if err != nil {
		return Pause{}, false, fmt.Errorf("ask whether %s is paused: %w", target, err)
	}
	return p, true, nil
}

// Pauses are all lanes and hosts that are paused, by name.
func (c *Conn) Pauses(ctx context.Context) ([]Pause, error) {
	var pauses []Pause
	err := scanBucket(ctx, c, c.names.control, ">", func(key string, p Pause) error {
		if controlKey(p.Target) == key {
			pauses = append(pauses, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list what is paused: %w", err)
	}
	slices.SortFunc(pauses, func(a, b Pause) int { return strings.Compare(a.Target, b.Target) })
	return pauses, nil
}
