package stats_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/bench/stats"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	require.Zero(t, stats.Median(nil))
	require.InDelta(t, 7.0, stats.Median([]float64{7}), 1e-9)
	values := []float64{9, 1, 5}
	require.InDelta(t, 5.0, stats.Median(values), 1e-9)
	require.Equal(t, []float64{9, 1, 5}, values, "the rounds keep their order")
	require.InDelta(t, 4.0, stats.Median([]float64{9, 1, 3, 5}), 1e-9)
}

// One slow round does not make a ratio, and a round is compared with itself.
func TestMedianRatio(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 2.0, stats.MedianRatio([]float64{2, 20, 2}, []float64{1, 10, 1}), 1e-9)
	require.InDelta(t, 2.0, stats.MedianRatio([]float64{2, 2, 90}, []float64{1, 1, 1}), 1e-9)
	require.InDelta(t, 3.0, stats.MedianRatio([]float64{3, 5}, []float64{1, 0}), 1e-9)
	require.Zero(t, stats.MedianRatio(nil, []float64{1}))
}

// What is the same for both sizes, such as the start, is in no slope.
func TestSlope(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 0.0015, stats.Slope(300, 0.3+300*0.0015, 3000, 0.3+3000*0.0015), 1e-9)
	require.Zero(t, stats.Slope(1, 2, 1, 3))
}
