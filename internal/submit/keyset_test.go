package submit

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeySet(t *testing.T) {
	t.Parallel()
	var s keySet
	require.False(t, s.has(keyOf("0")), "an empty set")
	for i := range 50_000 {
		require.True(t, s.add(keyOf(strconv.Itoa(i))))
	}
	require.Equal(t, 50_000, s.count)
	for i := range 50_000 {
		require.True(t, s.has(keyOf(strconv.Itoa(i))))
		require.False(t, s.add(keyOf(strconv.Itoa(i))))
		require.False(t, s.has(keyOf(strconv.Itoa(-1-i))))
	}
	require.Equal(t, 50_000, s.count)
}

// What a million requests cost: in this set, and in the map in its place.
func BenchmarkKeySet(b *testing.B) {
	const keys = 1_000_000
	all := make([]key, keys)
	for i := range all {
		all[i] = keyOf(strconv.Itoa(i))
	}
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	b.Run("set", func(b *testing.B) {
		b.ReportAllocs()
		var s *keySet
		before := live()
		for b.Loop() {
			s = new(keySet)
			for _, k := range all {
				s.add(k)
			}
		}
		b.ReportMetric(float64(live()-before)/keys, "B/key")
		runtime.KeepAlive(s)
	})
	b.Run("map", func(b *testing.B) {
		b.ReportAllocs()
		var s map[key]struct{}
		before := live()
		for b.Loop() {
			s = make(map[key]struct{})
			for _, k := range all {
				s[k] = struct{}{}
			}
		}
		b.ReportMetric(float64(live()-before)/keys, "B/key")
		runtime.KeepAlive(s)
	})
	runtime.KeepAlive(all)
}
