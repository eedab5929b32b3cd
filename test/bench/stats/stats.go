// Package stats is the arithmetic of the measurements: medians, ratios of runs
// of one round, the slope between two sizes. It knows neither what was measured
// nor what it ought to be.
package stats

import "slices"

// Median returns the middle of some values, or the mean of the two in the
// middle; 0 when there are none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// MedianRatio returns the median of a[i]/b[i]. What was measured side by side is
// compared side by side: a minute in which the machine was slow spoils one ratio
// and not the result. 0 when there is nothing to compare.
func MedianRatio(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return Median(ratios)
}

// Slope returns how much of y each further x costs between two points.
func Slope(x1, y1, x2, y2 float64) float64 {
	if x1 == x2 {
		return 0
	}
	return (y2 - y1) / (x2 - x1)
}
