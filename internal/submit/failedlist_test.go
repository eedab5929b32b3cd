package submit

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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

// reportOf is a report with a failed list.
func reportOf(t *testing.T, failures ...Failure) *Report {
	t.Helper()
	r := &Report{Batch: "b"}
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	for _, f := range failures {
		require.NoError(t, r.listFailure(f))
	}
	return r
}

func someFailures(t *testing.T) *Report {
	return reportOf(t,
		Failure{Line: "r.example/b:1 # two", Verdict: "dead", Class: "denied", Reason: "403"},
		Failure{Line: "r.example/\xff:1", Verdict: "not-done", Reason: "interrupted"},
		Failure{Reference: "", Verdict: "dead", Class: "invalid-request", Reason: "unreadable, and of no line"},
	)
}

func TestWriteFailed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := filepath.Join(dir, "sign-failed.txt")
	require.NoError(t, WriteFailed(list, new(Report)), "nothing failed, nothing there")
	require.Empty(t, names(t, dir))

	require.NoError(t, os.WriteFile(list, []byte("of an earlier run\n"), 0o600))
	require.NoError(t, WriteFailed(list, someFailures(t)))
	require.Equal(t, []string{"sign-failed.json", "sign-failed.txt"}, names(t, dir), "and nothing half written")
	text, err := os.ReadFile(list)
	require.NoError(t, err)
	require.Equal(t, "r.example/b:1 # two\nr.example/\xff:1\n", string(text))
	details, err := os.ReadFile(filepath.Join(dir, "sign-failed.json"))
	require.NoError(t, err)
	require.JSONEq(t, `{"batch": "b", "failed": [
		{"line": "r.example/b:1 # two", "reference": "", "verdict": "dead", "class": "denied", "reason": "403", "attempts": 0},
		{"line": {"bytes": "ci5leGFtcGxlL/86MQ=="}, "reference": "", "verdict": "not-done", "class": "", "reason": "interrupted", "attempts": 0},
		{"line": "", "reference": "", "verdict": "dead", "class": "invalid-request", "reason": "unreadable, and of no line", "attempts": 0}]}`, string(details))

	require.NoError(t, WriteFailed(list, new(Report)))
	require.Empty(t, names(t, dir), "a stale pair is removed")
}

func TestWriteFailedCannot(t *testing.T) {
	t.Parallel()
	list := filepath.Join(t.TempDir(), "none", "failed.txt")
	require.ErrorIs(t, WriteFailed(list, someFailures(t)), os.ErrNotExist)
	require.NoError(t, WriteFailed(list, new(Report)))
}

// A device or a directory is not replaced, nor removed.
func TestWriteFailedToNoFile(t *testing.T) {
	t.Parallel()
	require.NoError(t, WriteFailed(os.DevNull, someFailures(t)))
	require.NoError(t, WriteFailed(os.DevNull, new(Report)))
	info, err := os.Stat(os.DevNull)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeDevice)
	_, err = os.Stat(DetailsPath(os.DevNull))
	require.ErrorIs(t, err, os.ErrNotExist)

	dir := t.TempDir()
	require.Error(t, WriteFailed(dir, someFailures(t)))
	require.NoError(t, WriteFailed(dir, new(Report)))
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
		require.Equal(t, want, DetailsPath(list), list)
	}
}

func TestReportFormats(t *testing.T) {
	t.Parallel()
	written := func(write func(io.Writer) error) string {
		var out bytes.Buffer
		require.NoError(t, write(&out))
		return out.String()
	}
	none := new(Report)
	require.Empty(t, written(none.WriteText))
	require.JSONEq(t, `{"batch": "", "failed": []}`, written(none.WriteJSON))
	require.Equal(t, "line,reference,verdict,class,reason,attempts\n", written(none.WriteCSV))

	some := reportOf(t,
		Failure{Line: "r.example/b:1 # \"two\"", Reference: "r.example/b:1", Verdict: "dead", Class: "denied", Reason: "403, <no>", Attempts: 4},
		Failure{Line: "r.example/\xff:1", Verdict: "cancelled", Reason: "the batch was cancelled"},
	)
	require.Equal(t, "r.example/b:1 # \"two\"\nr.example/\xff:1\n", written(some.WriteText))
	rows, err := csv.NewReader(strings.NewReader(written(some.WriteCSV))).ReadAll()
	require.NoError(t, err)
	require.Equal(t, [][]string{
		{"line", "reference", "verdict", "class", "reason", "attempts"},
		{"r.example/b:1 # \"two\"", "r.example/b:1", "dead", "denied", "403, <no>", "4"},
		{"r.example/\xff:1", "", "cancelled", "", "the batch was cancelled", "0"},
	}, rows)
	var back struct {
		Batch  string    `json:"batch"`
		Failed []Failure `json:"failed"`
	}
	require.NoError(t, json.Unmarshal([]byte(written(some.WriteJSON)), &back))
	require.Equal(t, "b", back.Batch)
	var listed []Failure
	for f, err := range some.Failures() {
		require.NoError(t, err)
		listed = append(listed, f)
	}
	require.Equal(t, listed, back.Failed, "and exact to the byte")
}
