package worker

import "time"

// Class is the class of a failure for those who read images without a queue.
// again tells whether another attempt may help, not sooner than after.
func Class(err error) (class string, again bool, after time.Duration) {
	f := classify(err)
	return f.class, !f.permanent && !f.waited, f.retryAfter
}
