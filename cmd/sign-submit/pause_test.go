package main

import (
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

func TestTargets(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"bulk", "event", "registry.example.org", "registry.example.org:5000", "localhost", "localhost:5000", "registry:5000", "127.0.0.1:5000", "[::1]:5000", "docker.io"} {
		require.NoError(t, oneTarget(&cobra.Command{}, []string{target}), target)
	}
	for _, target := range []string{"", "blk", "registry.example.org/team", "https://registry.example.org", "registry.example.org:", "a b.c"} {
		require.Error(t, oneTarget(&cobra.Command{}, []string{target}), target)
	}
}

func TestWhoMayNotPauseIsToldWhoMay(t *testing.T) {
	t.Parallel()
	err := forOperators("pause", &queue.DeniedError{Subject: "$KV.SIGN_CONTROL.lane.bulk"})
	require.ErrorContains(t, err, "pause needs the credentials of the operator")
	require.Equal(t, queue.ErrNotSetUp, forOperators("pause", queue.ErrNotSetUp))
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	require.Equal(t, "grün \ufffd[31m", printable("grün \x1b[31m"))
	require.Equal(t, "\ufffd\ufffd", printable("\xff\n"))
}
