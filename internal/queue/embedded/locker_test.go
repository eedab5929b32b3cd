package embedded_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/embedded"
)

// Two submissions with a server each, as two processes have, exclude each other.
func TestLocksHoldBetweenServers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "locks")
	locker := func() *embedded.Locker {
		srv, conn := start(t, t.TempDir(), queue.Options{})
		t.Cleanup(func() { stop(t, srv, conn) })
		l, err := embedded.NewLocker(conn.Locker("w"), dir)
		require.NoError(t, err)
		return l
	}
	one, two := locker(), locker()
	held, err := one.Lock(t.Context(), "r.example/app@sha256:1")
	require.NoError(t, err)
	require.Positive(t, held.Left())

	impatient, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() {
		_, err := two.Lock(impatient, "r.example/app@sha256:1")
		gaveUp <- err
	}()
	other, err := two.Lock(t.Context(), "r.example/app@sha256:2")
	require.NoError(t, err, "another name is free")
	require.NoError(t, other.Unlock())
	cancel()
	require.ErrorIs(t, <-gaveUp, context.Canceled)

	taken := make(chan error)
	go func() {
		lease, err := two.Lock(t.Context(), "r.example/app@sha256:1")
		if err == nil {
			err = lease.Unlock()
		}
		taken <- err
	}()
	require.NoError(t, held.Unlock())
	require.NoError(t, <-taken)
}
