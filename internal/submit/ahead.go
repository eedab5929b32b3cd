package submit

import (
	"iter"
	"sync"
)

// How far a list is read ahead of its publishing: few enough to hold in memory,
// and many enough at a time that handing them over costs nothing.
const (
	aheadChunk  = 64
	aheadChunks = 4
)

// ahead is seq, made in a goroutine of its own: lines are read and hashed while
// those before them are published.
func ahead[T any](seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	type item struct {
		value T
		err   error
	}
	return func(yield func(T, error) bool) {
		chunks, stop := make(chan []item, aheadChunks), make(chan struct{})
		var reading sync.WaitGroup
		defer reading.Wait()
		defer close(stop)
		reading.Go(func() {
			defer close(chunks)
			chunk := make([]item, 0, aheadChunk)
			for value, err := range seq {
				if chunk = append(chunk, item{value, err}); len(chunk) < aheadChunk {
					continue
				}
				select {
				case chunks <- chunk:
				case <-stop:
					return
				}
				chunk = make([]item, 0, aheadChunk)
			}
			select {
			case chunks <- chunk:
			case <-stop:
			}
		})
		for chunk := range chunks {
			for _, next := range chunk {
				if !yield(next.value, next.err) {
					return
				}
			}
		}
	}
}
