package worker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
)

// A request whose outcome is recorded has ended, whether or not the record can
// be read here: it must not hold a slot for ever.
func TestRecordThatCannotBeReadIsTheEnd(t *testing.T) {
	t.Parallel()
	unreadable := func(context.Context) error { return fmt.Errorf("stored: %w", queue.ErrUnreadable) }
	t.Run("found when recording", func(t *testing.T) {
		t.Parallel()
		b := newBook()
		b.before = onStep("outcome", unreadable)
		deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 1)
		require.Equal(t, []string{"ack"}, b.made())
	})
	t.Run("found on a redelivery", func(t *testing.T) {
		t.Parallel()
		b := newBook()
		b.before = onStep("read outcome", unreadable)
		deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 2)
		require.Equal(t, []string{"read ledger", "ack", "clear ledger"}, b.made())
	})
}

func TestLedgerOfALaterVersionIsLeftToANewerWorker(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.before = onStep("read ledger", func(context.Context) error { return &queue.VersionError{Version: 2} })
	deliver(t, testWorker(b, signsAtOnce), b, testRequest(), 2)
	require.Equal(t, []string{"nak 1m0s"}, b.made())
}

func TestOutcomeTooLargeForAMessageGoesWithoutItsSignatures(t *testing.T) {
	t.Parallel()
	b := newBook()
	tries := 0
	b.before = onStep("outcome", func(context.Context) error {
		if tries++; tries == 1 {
			return fmt.Errorf("publish: %w", queue.ErrTooLarge)
		}
		return nil
	})
	r := testRequest()
	deliver(t, testWorker(b, signsAtOnce), b, r, 1)
	require.Equal(t, []string{"outcome signed", "ack"}, b.made())
	require.Empty(t, b.outcomes[requestKey(r)].Digests)
}

func TestDeadLetterOfAnUnreadableMessageHoldsTheMessage(t *testing.T) {
	t.Parallel()
	b := newBook()
	w, p := testWorker(b, signsAtOnce), &parcel{book: b}
	j := newJob(&queue.Delivery{Request: queue.Request{ID: "x", Batch: "b"}, Err: errors.New("no JSON"), StoredAt: time.Now()})
	j.delivery = p
	w.handle(t.Context(), t.Context(), j)
	require.Equal(t, "the message", string(b.letters[keyOf("b", "x", 0)].Body))
}

func TestAnswerOfAStorageSaysNothingOfTheImage(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403, 404} {
		f := classify(&registry.Error{Status: status, Foreign: true})
		require.Equal(t, failure{class: RegistryUnavailable}, f)
	}
}
