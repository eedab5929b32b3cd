package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/signfleet/signfleet/test/bench/seed"
	"github.com/signfleet/signfleet/test/bench/stats"
)

// engineOptions say what signers are compared at.
type engineOptions struct {
	Images       int
	Repositories int
	Jobs         []int
	Delays       []time.Duration
	Rounds       int
	Signers      []string
	CosignImages int
	HostRequests int
}

// Run is one signer's signing of one set of images.
type Run struct {
	Signer     string         `json:"signer"`
	Round      int            `json:"round"`
	Images     int            `json:"images"`
	Signatures int            `json:"signatures"`
	Wall       float64        `json:"wall_s"` // of the whole process or loop
	Span       float64        `json:"span_s"` // from the first request about an image to the last answer, as the relay saw them
	CPU        float64        `json:"cpu_s"`
	PeakMiB    float64        `json:"peak_mib"`
	Requests   int            `json:"requests"`
	Kinds      map[string]int `json:"kinds,omitempty"`
}

// Figures are the medians of a signer's runs.
type Figures struct {
	Signer               string  `json:"signer"`
	Images               int     `json:"images"`
	Wall                 float64 `json:"wall_s"`
	Span                 float64 `json:"span_s"`
	CPU                  float64 `json:"cpu_s"`
	PeakMiB              float64 `json:"peak_mib"`
	Requests             float64 `json:"requests"`
	RequestsPerSignature float64 `json:"requests_per_signature"`
	SignaturesPerSecond  float64 `json:"signatures_per_s"`
	WallPerSignature     float64 `json:"wall_per_signature_ms"`
	CPUPerSignature      float64 `json:"cpu_per_signature_ms"`
}

// Cell is all that was measured at one number of jobs and one delay.
type Cell struct {
	Jobs    int     `json:"jobs"`
	DelayMS float64 `json:"delay_ms"`
	// HostRequests is how many requests at once sign-submit was allowed.
	HostRequests int       `json:"host_requests"`
	Figures      []Figures `json:"figures"`
	Ratios       []Target  `json:"ratios"`
	Runs         []Run     `json:"runs"`
}

// Engines is the comparison of signers.
type Engines struct {
	Images  int      `json:"images"`
	Storage string   `json:"registry"`
	Rounds  int      `json:"rounds"`
	Absent  []string `json:"not_installed,omitempty"`
	Cells   []Cell   `json:"cells"`
}

// compareEngines measures each cell in rounds: in a round every signer has its
// turn, on images that are alike and its own, and the order changes from round to
// round, so that what else the machine does strikes all of them.
func compareEngines(ctx context.Context, b *bed, o engineOptions, progress io.Writer) (Engines, error) {
	result := Engines{Images: o.Images, Rounds: o.Rounds}
	signers, absent, err := chosenSigners(o.Signers, o)
	if err != nil {
		return result, err
	}
	result.Absent = absent
	for _, jobs := range o.Jobs {
		for _, delay := range o.Delays {
			cell := Cell{Jobs: jobs, DelayMS: asMilliseconds(delay), HostRequests: ours{o.HostRequests}.atOnce(jobs)}
			for round := range o.Rounds {
				for n := range signers {
					s := signers[(n+round)%len(signers)]
					run, err := measure(ctx, b, s, o.Images, o.Repositories, jobs, delay)
					if err != nil {
						return result, fmt.Errorf("%s, %d jobs, %s a request: %w", s.name(), jobs, delay, err)
					}
					run.Round = round
					note(progress, "jobs %d, delay %s, round %d: %s signed %d in %.2f s\n", jobs, delay, round+1, run.Signer, run.Signatures, run.Wall)
					cell.Runs = append(cell.Runs, run)
				}
			}
			result.Cells = append(result.Cells, summarize(cell, signers))
		}
	}
	return result, nil
}

// measure has a signer sign fresh images, and sees to it that it did.
func measure(ctx context.Context, b *bed, s signer, images, repositories, jobs int, delay time.Duration) (Run, error) {
	t, err := b.fresh(ctx, s.sample(images), repositories, jobs, delay)
	if err != nil {
		return Run{}, err
	}
	b.relay.Delay(delay)
	b.relay.Reset()
	used, err := s.sign(ctx, b, t)
	if err != nil {
		return Run{}, err
	}
	seen := b.relay.Tally()
	run := Run{
		Signer: s.name(), Images: len(t.images), Signatures: seed.Digests * len(t.images),
		Wall: used.wall.Seconds(), Span: seen.Span().Seconds(), CPU: used.cpu.Seconds(), PeakMiB: float64(used.peak) / (1 << 20),
		Requests: seen.Requests, Kinds: seen.Kinds,
	}
	if s.name() != nameDirect && seen.Signed != run.Signatures {
		return run, fmt.Errorf("signed %d digests and not %d; the registry answered %v", seen.Signed, run.Signatures, seen.Statuses)
	}
	return run, nil
}

// summarize adds the medians of each signer and what they come to beside others.
func summarize(c Cell, signers []signer) Cell {
	for _, s := range signers {
		if runs := c.of(s.name()); len(runs) > 0 {
			c.Figures = append(c.Figures, figuresOf(runs))
		}
	}
	c.Ratios = engineTargets(c)
	return c
}

// of returns a signer's runs by round.
func (c Cell) of(signer string) []Run {
	var runs []Run
	for _, run := range c.Runs {
		if run.Signer == signer {
			runs = append(runs, run)
		}
	}
	slices.SortFunc(runs, func(a, b Run) int { return a.Round - b.Round })
	return runs
}

func figuresOf(runs []Run) Figures {
	median := func(of func(Run) float64) float64 { return stats.Median(each(runs, of)) }
	return Figures{
		Signer: runs[0].Signer, Images: runs[0].Images,
		Wall: median(Run.wall), Span: median(Run.span), CPU: median(func(r Run) float64 { return r.CPU }),
		PeakMiB:              median(func(r Run) float64 { return r.PeakMiB }),
		Requests:             median(func(r Run) float64 { return float64(r.Requests) }),
		RequestsPerSignature: median(func(r Run) float64 { return float64(r.Requests) / float64(r.Signatures) }),
		SignaturesPerSecond:  median(func(r Run) float64 { return float64(r.Signatures) / r.Wall }),
		WallPerSignature:     median(Run.wallPerSignature),
		CPUPerSignature:      median(func(r Run) float64 { return 1000 * r.CPU / float64(r.Signatures) }),
	}
}

func (r Run) wall() float64             { return r.Wall }
func (r Run) span() float64             { return r.Span }
func (r Run) wallPerSignature() float64 { return 1000 * r.Wall / float64(r.Signatures) }

func each(runs []Run, of func(Run) float64) []float64 {
	values := make([]float64, len(runs))
	for i, run := range runs {
		values[i] = of(run)
	}
	return values
}

// note tells whoever waits how far it is; that it cannot be told is no failure.
func note(progress io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(progress, format, args...)
}
