package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
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

// What decides what the signatures are makes another submission of a list; what
// is the default leaves it where earlier versions had it.
func TestStateOfOtherSignatures(t *testing.T) {
	t.Parallel()
	base := submit.Options{Keys: []string{"sha256:k"}, Format: "tag", Platforms: []string{"linux/amd64"}}
	base.List.Registry = "r.example"
	require.Equal(t, []string{"hash", "r.example", "", "tag", "sha256:k", "", "linux/amd64"}, stateIdentity("hash", base))

	seen := map[string]bool{stateDir("", stateIdentity("hash", base)): true}
	for _, o := range []queue.SigningOptions{
		{Annotations: []string{"a=1"}},
		{Annotations: []string{"a=1", "b=2"}},
		{Identities: []string{"a=1"}},
		{Replaced: []string{"sha256:old"}},
		{Timestamps: true}, {SkipIndex: true}, {Recursive: true},
	} {
		other := base
		other.Signing = o
		dir := stateDir("", stateIdentity("hash", other))
		require.False(t, seen[dir], "%v", o)
		seen[dir] = true
	}
}

func TestOtherFlags(t *testing.T) {
	t.Parallel()
	both := queue.SigningOptions{Annotations: []string{"team=a b"}, Recursive: true}
	flags := signingFlags(both)
	require.Equal(t, []string{"--annotation=team=a b", "--recursive"}, flags)
	require.Equal(t, "is signed with '--annotation=team=a b' --recursive: give the same", otherFlags(flags, nil))
	require.Equal(t, "is signed with --recursive: give the same", otherFlags(flags, []string{"--annotation=team=a b", "--skip-index"}))
	require.Equal(t, "is signed without --skip-index: leave that out", otherFlags(flags, append(flags, "--skip-index")))
	require.Empty(t, signingFlags(queue.SigningOptions{}))
}
