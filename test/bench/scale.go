package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/signfleet/signfleet/test/bench/seed"
	"github.com/signfleet/signfleet/test/bench/stats"
	"github.com/signfleet/signfleet/test/peers"
)

// scaleOptions say what fleets are compared.
type scaleOptions struct {
	Images       int
	Repositories int
	Workers      []int // processes
	Jobs         int   // of each
	Delay        time.Duration
	Rounds       int
}

// Fleet is what so many worker processes came to.
type Fleet struct {
	Workers int       `json:"workers"`
	Span    float64   `json:"span_s"`  // median
	Spans   []float64 `json:"spans_s"` // by round
	Speed   float64   `json:"times_the_first"`
}

// Scale is how a fleet's speed grows with its size.
type Scale struct {
	Images  int      `json:"images"`
	Jobs    int      `json:"jobs"`
	DelayMS float64  `json:"delay_ms"`
	Fleets  []Fleet  `json:"fleets"`
	Targets []Target `json:"targets"`
}

// serving is what a worker says once it takes requests.
var serving = regexp.MustCompile(`serving`)

// measureScale has fleets of different sizes sign the same number of images,
// each with a nats-server of its own. The time is that from the first request
// about an image to the last answer.
func measureScale(ctx context.Context, b *bed, o scaleOptions, progress io.Writer) (Scale, error) {
	result := Scale{Images: o.Images, Jobs: o.Jobs, DelayMS: asMilliseconds(o.Delay)}
	for _, workers := range o.Workers {
		result.Fleets = append(result.Fleets, Fleet{Workers: workers})
	}
	for round := range o.Rounds {
		for n := range result.Fleets {
			f := &result.Fleets[n]
			span, err := signWithFleet(ctx, b, o, f.Workers)
			if err != nil {
				return result, fmt.Errorf("%d workers: %w", f.Workers, err)
			}
			f.Spans = append(f.Spans, span.Seconds())
			note(progress, "round %d: %d workers signed %d images in %.2f s\n", round+1, f.Workers, o.Images, span.Seconds())
		}
	}
	for n := range result.Fleets {
		f := &result.Fleets[n]
		f.Span = stats.Median(f.Spans)
		f.Speed = stats.MedianRatio(result.Fleets[0].Spans, f.Spans)
	}
	result.Targets = scaleTargets(result.Fleets)
	return result, nil
}

func scaleTargets(fleets []Fleet) []Target {
	var targets []Target
	for _, f := range fleets[1:] {
		name := fmt.Sprintf("%d worker processes / %d", f.Workers, fleets[0].Workers)
		if f.Workers == scaleProcesses && fleets[0].Workers == 1 {
			targets = append(targets, atLeast(name, f.Speed, unitTimes, scaleBound))
		} else {
			targets = append(targets, Target{Name: name, Got: f.Speed, Unit: unitTimes})
		}
	}
	return targets
}

// signWithFleet starts so many workers, and submits once all of them serve.
func signWithFleet(ctx context.Context, b *bed, o scaleOptions, workers int) (span time.Duration, err error) {
	server, err := peers.StartNATS(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	t, err := b.fresh(ctx, o.Images, o.Repositories, o.Jobs, o.Delay)
	if err != nil {
		return 0, err
	}
	b.relay.Delay(o.Delay)
	b.relay.Reset()
	stop, err := b.startWorkers(ctx, t, server, workers)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	list, err := t.list(b.relay.Host())
	if err != nil {
		return 0, err
	}
	if _, err := runToEnd(command(ctx, t.home, filepath.Join(b.programs, "sign-submit"),
		"--file", list, "--failed", filepath.Join(t.home, "failed.txt"), "--nats-url", server.URL())); err != nil {
		return 0, err
	}
	seen := b.relay.Tally()
	if want := seed.Digests * o.Images; seen.Signed != want {
		return 0, fmt.Errorf("signed %d digests and not %d; the registry answered %v", seen.Signed, want, seen.Statuses)
	}
	return seen.Span(), nil
}

// startWorkers returns when all serve. Stop ends and awaits them.
func (b *bed) startWorkers(ctx context.Context, t task, server *peers.NATS, workers int) (stop func() error, err error) {
	var running []*peers.Program
	stop = func() error {
		var err error
		for _, p := range running {
			err = errors.Join(err, p.Kill())
		}
		return err
	}
	for n := range workers {
		home := filepath.Join(t.home, "worker-"+strconv.Itoa(n))
		if err := os.Mkdir(home, 0o700); err != nil {
			return nil, errors.Join(err, stop())
		}
		c := command(ctx, home, filepath.Join(b.programs, "sign-worker"),
			"--nats-url", server.URL(), "--sigstore-key", b.key.Private, "--sigstore-passphrase-file", b.passfile,
			"--jobs", strconv.Itoa(t.jobs), "--tls-verify=false", "--insecure-policy")
		p, err := peers.StartProgram(ctx, peers.Command{Path: c.Path, Args: c.Args[1:], Env: c.Env, Dir: home})
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		running = append(running, p)
	}
	for _, p := range running {
		if err := p.Says(ctx, serving, time.Minute); err != nil {
			return nil, errors.Join(err, stop())
		}
	}
	return stop, nil
}
