package sign

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func TestALostUpdateIsNoticedAndRepaired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.latency = 300 * time.Millisecond
		d := s.image(t, "1")
		var keys []*Key
		var group errgroup.Group
		for range 3 {
			key := newKey(t)
			keys = append(keys, key)
			// Each with locks of its own: these signers do not know each other.
			signer := signerOn(t, s, Options{Keys: []*Key{key}, ConfirmWrites: ConfirmAlways})
			group.Go(func() error {
				_, err := signer.Sign(t.Context(), requestOne)
				return err
			})
		}
		require.NoError(t, group.Wait())
		requireSigned(t, s, d, "example.com/app:1", keys...)
		require.Greater(t, s.counts()["PUT manifest"], 3, "nobody overwrote anybody: the test shows nothing")
	})
}

func TestWhenWritesAreConfirmed(t *testing.T) {
	t.Parallel()
	const plain, before, after = 2, 1, 2 // reads: image and attachment; right before the write; after it
	for _, test := range []struct {
		name    string
		confirm ConfirmWrites
		foreign bool
		reads   int
	}{
		{"auto alone", ConfirmAuto, false, plain},
		{"auto among others", ConfirmAuto, true, plain + before + after},
		{"default is auto", "", true, plain + before + after},
		{"always", ConfirmAlways, false, plain + before + after},
		{"never", ConfirmNever, true, plain},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				d := s.image(t, "1")
				if test.foreign {
					s.foreign(d)
				}
				key := newKey(t)
				signer := signerOn(t, s, Options{Keys: []*Key{key}, ConfirmWrites: test.confirm})
				signer.jitter = func() float64 { return 1 }
				began := time.Now()
				_, err := signer.Sign(t.Context(), requestOne)
				require.NoError(t, err)
				counts := s.counts()
				require.Equal(t, test.reads, counts["GET manifest"])
				require.Equal(t, 1, counts["PUT manifest"])
				requireSigned(t, s, d, "example.com/app:1", key)
				if test.reads > plain {
					require.Equal(t, 2600*time.Millisecond, time.Since(began))
				} else {
					require.Zero(t, time.Since(began))
				}
			})
		})
	}
}

func TestASlowRegistryIsConfirmedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.latency = 2 * time.Second
		s.image(t, "1")
		signer := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, ConfirmWrites: ConfirmAlways})
		signer.jitter = func() float64 { return 0 }
		began := time.Now()
		_, err := signer.Sign(t.Context(), requestOne)
		require.NoError(t, err)
		// GET image, GET .sig, blobs side by side, GET .sig, PUT, 2 s each; the
		// last two are the 4 s from read to write. Read back after 5 times that
		// and 1 s later, which is when the first read back has not ended yet.
		require.Equal(t, 10*time.Second+20*time.Second+2*time.Second+2*time.Second, time.Since(began))
	})
}

func TestWaitingToConfirmEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.image(t, "1")
		cause := errors.New("the image's time is up")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, cause)
		defer cancel()
		_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, ConfirmWrites: ConfirmAlways}).Sign(ctx, requestOne)
		require.ErrorIs(t, err, cause)
	})
}

func TestASignatureThatIsOverwrittenAgainAndAgainIsAConflict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d := s.image(t, "1")
		s.foreign(d)
		writes := 0
		var rude func(context.Context, string, []byte) error
		rude = func(context.Context, string, []byte) error {
			writes++
			s.foreign(d)
			s.onPut = rude
			return nil
		}
		s.onPut = rude
		_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(t.Context(), requestOne)
		var conflict *ConflictError
		require.ErrorAs(t, err, &conflict)
		require.ErrorIs(t, err, errOverwritten)
		require.Equal(t, "example.com/app:"+attachmentTag(d), conflict.Attachment)
		require.Equal(t, maxTurns, writes)
	})
}
