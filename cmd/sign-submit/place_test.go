package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/embedded"
	"github.com/signfleet/signfleet/internal/submit"
)

// A directory that a submission is using is named with its process.
func TestDirectoriesInUseAreNamed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "one")
	server, err := embedded.Start(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	process := fmt.Sprintf("process %d", os.Getpid())
	a := &asking{StateDir: root, log: zap.NewNop()}

	_, err = a.placeOf(t.Context(), "nightly")
	require.ErrorContains(t, err, "there is no batch nightly below "+root)
	require.ErrorContains(t, err, process, "it may be there")

	require.NoError(t, noteBatch(dir, "nightly"))
	_, err = a.placeOf(t.Context(), "nightly")
	require.ErrorContains(t, err, "batch nightly: "+process)
	_, err = a.placeOf(t.Context(), "other")
	require.ErrorContains(t, err, "there is no batch other below "+root)
	require.NotContains(t, err.Error(), process, "it is known not to be there")

	_, dirs, err := a.dirs()
	require.NoError(t, err)
	left, err := eachDir(t.Context(), dirs, func(*place) error { return nil })
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, dir, left[0].Dir)
	require.Equal(t, os.Getpid(), left[0].PID)
}

// Each error says what to do about it, and none a password.
func TestErrorsHaveRemedies(t *testing.T) {
	t.Parallel()
	fleet := &asking{NATSURL: "nats://user:hidden@nats.example.org:4222"}
	here := &asking{}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context //nolint:containedctx // of a test case
		by   *asking
		err  error
		says string
	}{
		"no batch":      {t.Context(), fleet, submit.ErrNoBatch, "there is no batch nightly on nats://xxxxx@nats.example.org:4222: see sign-submit batches"},
		"no batch here": {t.Context(), here, submit.ErrNoBatch, "there is no batch nightly on this machine: see sign-submit batches"},
		"stalled":       {t.Context(), fleet, &submit.StalledError{Batch: "nightly", Missing: 3}, "--nats-url nats://xxxxx@nats.example.org:4222 --resume nightly"},
		"stalled here":  {t.Context(), here, &submit.StalledError{Batch: "nightly", Missing: 3}, "run the command that submitted it again"},
		"not set up":    {t.Context(), fleet, queue.ErrNotSetUp, "sign-worker setup"},
		"denied":        {t.Context(), fleet, &queue.DeniedError{Subject: "$KV.SIGN_BATCHES.x"}, "use the credentials of the role"},
		"interrupted":   {over, fleet, queue.ErrNotSetUp, context.Canceled.Error()},
	} {
		err := test.by.explain(test.ctx, "nightly", fmt.Errorf("somewhere: %w", test.err))
		require.ErrorContains(t, err, test.says, name)
		require.NotContains(t, err.Error(), "hidden", name)
	}
	require.NoError(t, fleet.explain(over, "nightly", nil))
}
