package deadline_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/deadline"
)

func TestWorkEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, _, stop := deadline.With(t.Context(), deadline.Limits{Work: time.Minute})
		defer stop()
		<-ctx.Done()
		var timeout *deadline.TimeoutError
		require.ErrorAs(t, context.Cause(ctx), &timeout)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

func TestWaitingForATurnIsNotWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, clock, stop := deadline.With(t.Context(), deadline.Limits{Work: time.Minute, Wait: time.Hour})
		defer stop()
		time.Sleep(30 * time.Second)
		one := deadline.Pause(ctx, deadline.Lock)
		time.Sleep(10 * time.Minute)
		two := deadline.Pause(ctx, deadline.Rate)
		one()
		one()
		time.Sleep(10 * time.Minute)
		two()
		require.NoError(t, ctx.Err())
		require.Equal(t, 20*time.Minute, clock.Waited())
		<-ctx.Done()
		var timeout *deadline.TimeoutError
		require.ErrorAs(t, context.Cause(ctx), &timeout)
		require.Equal(t, 21*time.Minute, time.Since(began))
	})
}

func TestWaitingHasABoundOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, _, stop := deadline.With(t.Context(), deadline.Limits{Work: time.Minute, Wait: 5 * time.Minute})
		defer stop()
		defer deadline.Pause(ctx, deadline.Lock)()
		<-ctx.Done()
		var waited *deadline.WaitError
		require.ErrorAs(t, context.Cause(ctx), &waited)
		require.Equal(t, deadline.Lock, waited.For)
		require.Equal(t, 5*time.Minute, waited.Waited)
	})
}

func TestAStoppedClockStaysSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, _, stop := deadline.With(t.Context(), deadline.Limits{Work: time.Minute})
		stop()
		time.Sleep(time.Hour)
		require.ErrorIs(t, context.Cause(ctx), context.Canceled)
		deadline.Pause(ctx, deadline.Lock)()
		deadline.Pause(context.Background(), deadline.Lock)()
	})
}

func TestWorkingIsSinceTheLastTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, clock, stop := deadline.With(t.Context(), deadline.Limits{Work: time.Hour})
		time.Sleep(time.Second)
		require.Equal(t, time.Second, clock.Working())
		first, second := deadline.Pause(ctx, deadline.Lock), deadline.Pause(ctx, deadline.Rate)
		time.Sleep(time.Second)
		first()
		require.Zero(t, clock.Working(), "a part waits still")
		second()
		time.Sleep(3 * time.Second)
		_ = clock.Waited()
		require.Equal(t, 3*time.Second, clock.Working())
		stop()
		require.Zero(t, clock.Working())
	})
}
