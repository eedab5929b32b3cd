package sign

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// confirmFirst and confirmSecond are how long after a write it is confirmed.
	confirmFirst  = time.Second
	confirmSecond = 2 * time.Second
	// confirmJitter keeps two signers that overwrite each other from doing it
	// in step for ever.
	confirmJitter = 0.3
	// confirmFactor is how much slower than us another signer may be between
	// its read and its write, and still be noticed.
	confirmFactor = 5
)

// confirm reads the attachment back some time after it was written. A signer
// that knows no lock may have read it before our write and written it after:
// then our signatures are not in it, and another turn is needed.
//
// What it cannot see is the reverse, a foreign write between our own read and
// write: that one is the other signer's to notice.
func (a *attaching) confirm(ctx context.Context, written time.Time) (attached digest.Digest, err error) {
	for _, delay := range a.confirmDelays() {
		if err := waitUntil(ctx, written.Add(delay)); err != nil {
			return "", err
		}
		found, err := a.look(ctx)
		if err != nil {
			return "", err
		}
		if !a.complete(found) {
			return "", &againError{errOverwritten}
		}
		attached = found.digest
	}
	return attached, nil
}

// confirmDelays are the times after a write at which it is read back. The
// first is at least confirmFactor times as long as we took ourselves, and the
// others keep their distance from it.
func (a *attaching) confirmDelays() []time.Duration {
	later := max(0, confirmFactor*a.slowest-confirmFirst)
	var delays []time.Duration
	for _, after := range []time.Duration{confirmFirst, confirmSecond} {
		jitter := 1 + confirmJitter*a.jitter()
		delays = append(delays, time.Duration(float64(after+later)*jitter))
	}
	return delays
}

// waitUntil waits for a time, or for the end of the context.
func waitUntil(ctx context.Context, when time.Time) error {
	timer := time.NewTimer(time.Until(when))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
