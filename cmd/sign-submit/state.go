package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/signfleet/signfleet/internal/queue/embedded"
	"github.com/signfleet/signfleet/internal/submit"
)

// embeddedHeartbeat fits the short ack wait of an embedded queue.
const embeddedHeartbeat = time.Second

// finishedMark is the file in the directory of a submission that has its report.
const finishedMark = "finished"

// finishedAge is how long the directory of a finished submission is kept.
const finishedAge = 7 * 24 * time.Hour

// stateRoot is where submissions keep their state, by the XDG base directory
// specification, unless a directory is named.
func stateRoot(named string, getenv func(string) string) (string, error) {
	if named != "" {
		return filepath.Abs(named)
	}
	if state := getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "signfleet"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("no place to remember what is done: neither XDG_STATE_HOME nor HOME is set; name one with --state-dir")
	}
	return filepath.Join(home, ".local", "state", "signfleet"), nil
}

// stateIdentity is what makes a submission this one, given the hash of its list.
// What is not the default comes last, so that without it the directory is that
// of earlier versions.
func stateIdentity(list string, o submit.Options) []string {
	parts := []string{list, o.List.Registry, o.List.Project, o.Format}
	parts = slices.Concat(parts, o.Keys, []string{""}, o.Platforms)
	if flags := signingFlags(o.Signing); len(flags) > 0 {
		parts = slices.Concat(parts, []string{""}, flags)
	}
	return parts
}

// stateDir is the directory of one submission: all that decides what is signed
// and with what is in its name, so only the same submission finds it.
func stateDir(root string, identity []string) string {
	h := sha256.New()
	for _, part := range identity {
		_, _ = fmt.Fprintf(h, "%d:%s,", len(part), part)
	}
	return filepath.Join(root, hex.EncodeToString(h.Sum(nil))[:32])
}

// locksDir is where the submissions beside this one have their locks too.
func locksDir(stateDir string) string { return filepath.Join(filepath.Dir(stateDir), "locks") }

// batchesFile, in the directory of a submission, has the names of its batches,
// one a line: a batch is found without starting the server of each directory.
const batchesFile = "batches"

// noteBatch notes, before a batch is begun, that it is in a directory.
func noteBatch(dir, id string) error {
	ids, err := notedBatches(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note the batch: %w", err)
	}
	if slices.Contains(ids, id) {
		return nil
	}
	text := strings.Join(append(ids, id), "\n") + "\n"
	path := filepath.Join(dir, batchesFile)
	// Whole or not at all: others read it while this process has the directory.
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("note the batch: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("note the batch: %w", err)
	}
	return nil
}

// notedBatches are the batches of a directory, oldest first. The error is
// fs.ErrNotExist for one of an earlier version, which has no note of them.
func notedBatches(dir string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, batchesFile)) //nolint:gosec // G304: the state directory is the user's to choose
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(text)), nil
}

// stateDirs are the directories of all submissions below a root.
func stateDirs(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for submissions: %w", err)
	}
	var dirs []string
	for _, entry := range entries {
		dir := filepath.Join(root, entry.Name())
		if info, err := os.Stat(filepath.Join(dir, "jetstream")); err == nil && info.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// markFinished notes when a submission got its report.
func markFinished(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, finishedMark), nil, 0o600); err != nil {
		return fmt.Errorf("note that the submission is finished: %w", err)
	}
	return nil
}

// isFinished reports whether all of a directory has had its report.
func isFinished(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, finishedMark))
	return err == nil
}

// unmarkFinished forgets an earlier end: the submission begins again.
func unmarkFinished(dir string) error {
	if err := os.Remove(filepath.Join(dir, finishedMark)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("begin the submission again: %w", err)
	}
	return nil
}

// removeFinished removes the directories of submissions that finished long
// ago, except the one about to be used. What cannot be removed stays.
func removeFinished(root, except string) {
	marks, err := filepath.Glob(filepath.Join(root, "*", finishedMark))
	if err != nil {
		return // the root has characters of a pattern in its name
	}
	for _, mark := range marks {
		dir := filepath.Dir(mark)
		if info, err := os.Stat(mark); err == nil && dir != except && time.Since(info.ModTime()) > finishedAge {
			_ = embedded.Remove(dir)
		}
	}
}
