package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

func TestTheEmptiestPartition(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{Partitions: 4})
	publish(t, conn, 0, "a", 3)
	publish(t, conn, 1, "b", 2)
	publish(t, conn, 2, "c", 1)
	publish(t, conn, 2, "d", 2)
	// What a submitter thinks of the number of partitions is of no account.
	for _, partitions := range []int{1, 4, 9} {
		p, err := stranger(t, srv, queue.Options{Partitions: partitions}).EmptiestPartition(within(t))
		require.NoError(t, err)
		require.Equal(t, 3, p)
	}
	publish(t, conn, 3, "e", 9)
	p, err := conn.EmptiestPartition(within(t))
	require.NoError(t, err)
	require.Equal(t, 1, p)
}

func TestNoPartitionWithoutAConsumerIsPicked(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{Partitions: 2})
	submitter := stranger(t, srv, queue.Options{Partitions: 4})
	publish(t, conn, 0, "a", 1)
	publish(t, conn, 1, "b", 2)
	p, err := submitter.EmptiestPartition(within(t))
	require.NoError(t, err)
	require.Equal(t, 0, p)

	_, js := raw(t, srv)
	require.NoError(t, js.DeleteConsumer(within(t), "SIGN_REQUESTS", "bulk-00"))
	p, err = submitter.EmptiestPartition(within(t))
	require.NoError(t, err)
	require.Equal(t, 1, p)
	require.NoError(t, js.DeleteConsumer(within(t), "SIGN_REQUESTS", "bulk-01"))
	_, err = submitter.EmptiestPartition(within(t))
	require.ErrorIs(t, err, queue.ErrNotSetUp)
}

func TestWaitingCountsTheRequestsOfABatch(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	waiting := func(batch string) int {
		n, err := conn.Waiting(within(t), batch)
		require.NoError(t, err)
		return n
	}
	require.Zero(t, waiting("b"))
	publish(t, conn, 1, "b", 5)
	publish(t, conn, 1, "other", 2)
	_, js := raw(t, srv)
	_, err := js.Publish(within(t), "sign.request.event.webhook.b", []byte("x"))
	require.NoError(t, err)
	require.Equal(t, 6, waiting("b"))
	require.Equal(t, 2, waiting("other"))

	lane := conn.EventLane()
	d := one(t, lane)
	require.Equal(t, 6, waiting("b"), "in work")
	require.NoError(t, d.Done(within(t)))
	require.Equal(t, 5, waiting("b"))

	_, err = conn.Waiting(within(t), "*")
	require.ErrorContains(t, err, "not a name")
}
