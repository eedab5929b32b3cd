package main

import "github.com/signfleet/signfleet/test/bench/stats"

// Target is a figure beside what it ought to be.
type Target struct {
	Name    string  `json:"name"`
	Got     float64 `json:"got"`
	Unit    string  `json:"unit,omitempty"`
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
	Met     *bool   `json:"met,omitempty"` // nil where no target is set
}

func atLeast(name string, got float64, unit string, bound float64) Target {
	met := got >= bound
	return Target{Name: name, Got: got, Unit: unit, AtLeast: bound, Met: &met}
}

func atMost(name string, got float64, unit string, bound float64) Target {
	met := got <= bound
	return Target{Name: name, Got: got, Unit: unit, AtMost: bound, Met: &met}
}

// The bounds of the targets.
const (
	floorBound     = 1.3    // of the floor's span
	comparedJobs   = 4      // at which the bounds against other signers hold
	slopeBound     = 1.5    // ms of CPU a signature, between two sizes
	peakBound      = 144    // MiB
	peakImages     = 10_000 // at which it holds
	linearBound    = 1.25   // of the time a signature takes at the smallest size
	scaleBound     = 7      // times as fast as one process
	scaleProcesses = 8      // at which it holds
)

// The units of figures.
const (
	unitTimes = "times"
	unitCPU   = "ms of CPU"
	unitMiB   = "MiB"
)

// against are the bounds of the ratios to other signers, by the delay of a request in ms.
func against() map[string]map[float64]float64 {
	return map[string]map[float64]float64{
		nameHangar: {0: 2, 20: 5},
		nameCosign: {0: 15, 20: 9},
	}
}

// engineTargets compares our program with the others of the same rounds: with
// hangar and cosign by the time of whole processes for a signature, with the
// floor by the time between the first and the last request.
func engineTargets(c Cell) []Target {
	mine := c.of(nameOurs)
	if len(mine) == 0 {
		return nil
	}
	var targets []Target
	for _, other := range []string{nameHangar, nameCosign} {
		runs := c.of(other)
		if len(runs) == 0 {
			continue
		}
		name := other + ": wall a signature / ours"
		got := stats.MedianRatio(each(runs, Run.wallPerSignature), each(mine, Run.wallPerSignature))
		bound, ok := against()[other][c.DelayMS]
		if ok && c.Jobs == comparedJobs {
			targets = append(targets, atLeast(name, got, unitTimes, bound))
		} else {
			targets = append(targets, Target{Name: name, Got: got, Unit: unitTimes})
		}
	}
	if floor := c.of(nameFloor); len(floor) > 0 {
		got := stats.MedianRatio(each(mine, Run.span), each(floor, Run.span))
		targets = append(targets, atMost("our span / the floor's", got, unitTimes, floorBound))
	}
	if floor, direct := c.of(nameFloor), c.of(nameDirect); len(floor) > 0 && len(direct) > 0 && c.DelayMS == 0 {
		got := stats.MedianRatio(each(floor, Run.wall), each(direct, Run.wall))
		targets = append(targets, Target{Name: "floor: wall with the relay / without", Got: got, Unit: unitTimes})
	}
	return targets
}
