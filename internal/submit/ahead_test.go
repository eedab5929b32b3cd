package submit

import (
	"errors"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAheadIsTheSame(t *testing.T) {
	t.Parallel()
	errEnd := errors.New("the end")
	upTo := func(n int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range n {
				if !yield(i, nil) {
					return
				}
			}
			yield(0, errEnd)
		}
	}
	for _, n := range []int{0, 1, aheadChunk - 1, aheadChunk, 10*aheadChunk + 7} {
		next := 0
		for value, err := range ahead(upTo(n)) {
			if next == n {
				require.ErrorIs(t, err, errEnd)
				break
			}
			require.NoError(t, err)
			require.Equal(t, next, value)
			next++
		}
		require.Equal(t, n, next)
		for value, err := range ahead(upTo(n)) {
			require.Zero(t, value)
			require.Equal(t, n == 0, err != nil)
			break // and nothing goes on reading
		}
	}
}
