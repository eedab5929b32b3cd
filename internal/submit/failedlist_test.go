package submit_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/submit"
)

// names are the files of a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	all := []string{}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func someFailures() submit.Report {
	return submit.Report{Batch: "b", Failures: []submit.Failure{
		{Line: "r.example/b:1 # two", Verdict: "dead", Class: "denied", Reason: "403"},
		{Line: "r.example/a:1", Verdict: "not-done", Reason: "interrupted"},
	}}
}

func TestWriteFailed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := filepath.Join(dir, "sign-failed.txt")
	require.NoError(t, submit.WriteFailed(list, submit.Report{}), "nothing failed, nothing there")
	require.Empty(t, names(t, dir))

	require.NoError(t, os.WriteFile(list, []byte("of an earlier run\n"), 0o600))
	require.NoError(t, submit.WriteFailed(list, someFailures()))
	require.Equal(t, []string{"sign-failed.json", "sign-failed.txt"}, names(t, dir), "and nothing half written")
	text, err := os.ReadFile(list)
	require.NoError(t, err)
	require.Equal(t, "r.example/b:1 # two\nr.example/a:1\n", string(text))
	details, err := os.ReadFile(filepath.Join(dir, "sign-failed.json"))
	require.NoError(t, err)
	require.JSONEq(t, `{"batch": "b", "failed": [
		{"line": "r.example/b:1 # two", "verdict": "dead", "class": "denied", "reason": "403", "attempts": 0},
		{"line": "r.example/a:1", "verdict": "not-done", "reason": "interrupted", "attempts": 0}]}`, string(details))

	require.NoError(t, submit.WriteFailed(list, submit.Report{}))
	require.Empty(t, names(t, dir), "a stale pair is removed")
}

func TestWriteFailedCannot(t *testing.T) {
	t.Parallel()
	list := filepath.Join(t.TempDir(), "none", "failed.txt")
	require.ErrorIs(t, submit.WriteFailed(list, someFailures()), os.ErrNotExist)
	require.NoError(t, submit.WriteFailed(list, submit.Report{}))
}

// A device or a directory is not replaced, nor removed.
func TestWriteFailedToNoFile(t *testing.T) {
	t.Parallel()
	require.NoError(t, submit.WriteFailed(os.DevNull, someFailures()))
	require.NoError(t, submit.WriteFailed(os.DevNull, submit.Report{}))
	info, err := os.Stat(os.DevNull)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeDevice)
	_, err = os.Stat(submit.DetailsPath(os.DevNull))
	require.ErrorIs(t, err, os.ErrNotExist)

	dir := t.TempDir()
	require.Error(t, submit.WriteFailed(dir, someFailures()))
	require.NoError(t, submit.WriteFailed(dir, submit.Report{}))
	require.DirExists(t, dir)
}

func TestDetailsPath(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"sign-failed.txt":   "sign-failed.json",
		"out/failed.list":   "out/failed.json",
		"failed":            "failed.json",
		"out.d/failed":      "out.d/failed.json",
		"failed.json":       "failed.json.json",
		"failed.2026.txt":   "failed.2026.json",
		".failed":           ".failed.json",
		"out/.failed":       "out/.failed.json",
		".failed.txt":       ".failed.json",
		"/var/log/f.images": "/var/log/f.json",
	} {
		require.Equal(t, want, submit.DetailsPath(list), list)
	}
}
