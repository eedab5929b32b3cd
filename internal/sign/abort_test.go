package sign

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

var errAborted = errors.New("no longer wanted")

// A registry does not stop writing because nobody waits for its answer: the
// lock is kept until it has written, and the next signer keeps both signatures.
func TestAWriteUnderWayIsFinishedUnderItsLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d, first, second, turns := s.image(t, "1"), newKey(t), newKey(t), &locks{}
		wanted := t.Context()
		ctx, abort := context.WithCancelCause(wanted)
		defer abort(nil)
		s.onPut = func(ctx context.Context, reference string, body []byte) error {
			abort(errAborted)
			time.Sleep(2 * time.Second)
			s.put(reference, oci.MediaTypeImageManifest, body)
			return ctx.Err()
		}
		var both errgroup.Group
		both.Go(func() error {
			result, err := signerOn(t, s, Options{Keys: []*Key{first}, Locker: turns}).Sign(ctx, requestOne)
			require.Len(t, result.Signed, 1, "it was signed, and that is said")
			return err
		})
		both.Go(func() error {
			<-ctx.Done()
			_, err := signerOn(t, s, Options{Keys: []*Key{second}, Locker: turns, ConfirmWrites: ConfirmNever}).Sign(wanted, requestOne)
			return err
		})
		require.NoError(t, both.Wait())
		requireSigned(t, s, d, "example.com/app:1", first, second)
	})
}

func TestAWriteThatHangsIsNotFinishedForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.image(t, "1")
		ctx, abort := context.WithCancelCause(t.Context())
		defer abort(nil)
		hang := unanswered(t)
		s.onPut = func(ctx context.Context, reference string, body []byte) error {
			abort(errAborted)
			return hang(ctx, reference, body)
		}
		began := time.Now()
		_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(ctx, requestOne)
		require.ErrorIs(t, err, errAborted)
		require.Equal(t, Options{}.withDefaults().finishTimeout(), time.Since(began))
		require.Equal(t, 1, s.counts()["PUT manifest"], "and not begun anew")
	})
}

func TestAWriteThatWaitsForItsTurnIsNotBegun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.image(t, "1")
		s.turn = time.Hour
		ctx, abort := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { abort(errAborted) })
		began := time.Now()
		_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(ctx, requestOne)
		require.ErrorIs(t, err, errAborted)
		require.Equal(t, time.Minute, time.Since(began))
		require.Zero(t, s.counts()["PUT manifest"])
	})
}
