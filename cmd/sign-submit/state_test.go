package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNotedBatches(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := notedBatches(dir)
	require.ErrorIs(t, err, fs.ErrNotExist, "of an earlier version")

	for _, id := range []string{"one", "two", "one"} {
		require.NoError(t, noteBatch(dir, id))
	}

	ids, err := notedBatches(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two"}, ids)
	require.Error(t, noteBatch(filepath.Join(dir, "none"), "one"))
}

func TestStateDirsAreThoseOfSubmissions(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "locks"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "one", "jetstream"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))

	dirs, err := stateDirs(root)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(root, "one")}, dirs)

	dirs, err = stateDirs(filepath.Join(root, "none"))
	require.NoError(t, err)
	require.Empty(t, dirs)
}
