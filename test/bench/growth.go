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

// growthOptions say how the cost of one more image is measured.
type growthOptions struct {
	Sizes         []int // images, in ascending order
	Jobs          int
	Rounds        int // of sizes up to peakImages/2; larger ones are signed once
	PerRepository int // images
}

// Growth is what sign-submit takes for lists of different lengths, embedded
// queue included, and the floor beside it.
type Growth struct {
	Jobs    int       `json:"jobs"`
	Figures []Figures `json:"figures"`
	Targets []Target  `json:"targets"`
	Runs    []Run     `json:"runs"`
}

// measureGrowth signs longer and longer lists, without any delay.
func measureGrowth(ctx context.Context, b *bed, o growthOptions, progress io.Writer) (Growth, error) {
	result := Growth{Jobs: o.Jobs}
	for _, size := range o.Sizes {
		rounds := o.Rounds
		if size > peakImages/2 {
			rounds = 1
		}
		for _, s := range []signer{ours{}, bare{}} {
			var runs []Run
			for round := range rounds {
				run, err := measure(ctx, b, s, size, max(1, size/o.PerRepository), o.Jobs, 0)
				if err != nil {
					return result, fmt.Errorf("%s, %d images: %w", s.name(), size, err)
				}
				run.Round = round
				note(progress, "%d images, round %d: %s in %.2f s, %.2f s of CPU, %.0f MiB\n", size, round+1, run.Signer, run.Wall, run.CPU, run.PeakMiB)
				runs = append(runs, run)
			}
			result.Runs = append(result.Runs, runs...)
			result.Figures = append(result.Figures, figuresOf(runs))
		}
	}
	result.Targets = growthTargets(result.Figures)
	return result, nil
}

// growthTargets looks at our program's figures, in the order of their sizes.
func growthTargets(all []Figures) []Target {
	mine := slices.DeleteFunc(slices.Clone(all), func(f Figures) bool { return f.Signer != nameOurs })
	if len(mine) < 2 {
		return nil
	}
	first, second, last := mine[0], mine[1], mine[len(mine)-1]
	slope := 1000 * stats.Slope(first.signatures(), first.CPU, second.signatures(), second.CPU)
	perSignature := func(f Figures) float64 { return f.Span / f.signatures() }
	targets := []Target{
		atMost(fmt.Sprintf("a signature, between %d and %d images", first.Images, second.Images), slope, unitCPU, slopeBound),
		atMost(fmt.Sprintf("span a signature at %d images / at %d", last.Images, first.Images), perSignature(last)/perSignature(first), unitTimes, linearBound),
	}
	peak := fmt.Sprintf("most memory for %d images", last.Images)
	if last.Images == peakImages {
		return append(targets, atMost(peak, last.PeakMiB, unitMiB, peakBound))
	}
	return append(targets, Target{Name: peak, Got: last.PeakMiB, Unit: unitMiB})
}

func (f Figures) signatures() float64 { return float64(f.Images * seed.Digests) }

// asMilliseconds is how delays are reported.
func asMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
