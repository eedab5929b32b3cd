package main

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Ctrl-C ends the waiting for a list from a pipe that gives nothing, or that
// nobody has opened yet.
func TestCopyListEndsWithTheContext(t *testing.T) {
	t.Parallel()
	silent, writer, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(writer.Close(), silent.Close())) })
	fifo := filepath.Join(t.TempDir(), "list")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, file := range []string{"-", fifo} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := copyList(ctx, file, silent)
			ended <- err
		}()
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled, file)
	}
}

func TestCopyListIsWhole(t *testing.T) {
	t.Parallel()
	for name, list := range map[string]string{"short": "a\nb", "empty": "", "long": strings.Repeat("x", listInMemory+17)} {
		copied, err := copyList(t.Context(), "-", strings.NewReader(list))
		require.NoError(t, err, name)
		got, err := io.ReadAll(io.NewSectionReader(copied, 0, math.MaxInt64))
		require.NoError(t, err, name)
		require.Equal(t, list, string(got), name)
		require.NoError(t, (&settings{list: copied}).cleanup())
	}
}
