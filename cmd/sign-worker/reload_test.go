package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest/observer"

	"go.uber.org/zap"
)

// reloading is a reloader at work on a configuration file, and what came of it.
type reloading struct {
	*reloader
	file    string
	applied chan *settings
	told    chan bool
	logs    *observer.ObservedLogs

	mu   sync.Mutex
	fail error // what apply says
}

func (r *reloading) failWith(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func startReloading(t *testing.T, every time.Duration, text string) *reloading {
	t.Helper()
	r := &reloading{file: filepath.Join(t.TempDir(), "sign-worker.yaml"), applied: make(chan *settings, 10), told: make(chan bool, 10)}
	r.write(t, text)
	flags := pflag.NewFlagSet("sign-worker", pflag.ContinueOnError)
	defineFlags(flags)
	require.NoError(t, flags.Parse([]string{"--config", r.file}))
	s, err := parseSettings(flags, r.file)
	require.NoError(t, err)
	core, logs := observer.New(zap.DebugLevel)
	s.log, r.logs = zap.New(core), logs
	r.reloader = newReloader(flags, s)
	r.apply = func(_ context.Context, next *settings) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fail != nil {
			return r.fail
		}
		r.applied <- next
		return nil
	}
	r.tell = func(ok bool) { r.told <- ok }
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.run(ctx, every) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		r.stop()
	})
	return r
}

// write replaces the file, as editors and mounted secrets do.
func (r *reloading) write(t *testing.T, text string) {
	t.Helper()
	next := r.file + ".next"
	require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
	require.NoError(t, os.Rename(next, r.file))
}

func TestReloadOnAChangedFile(t *testing.T) {
	t.Parallel()
	r := startReloading(t, time.Millisecond, "format: tag\njobs: 4\n")
	r.write(t, "format: referrer\njobs: 5\n")
	require.Equal(t, []string{"referrer"}, (<-r.applied).Formats)
	require.True(t, <-r.told)

	// What cannot be used is told, and the next file counts again.
	r.write(t, "fromat: tag\n")
	require.False(t, <-r.told)
	r.write(t, "format: [tag, referrer]\njobs: 5\n")
	require.Equal(t, []string{"tag", "referrer"}, (<-r.applied).Formats)
	require.True(t, <-r.told)
	require.Len(t, r.logs.FilterMessage("settings have changed that hold from the next start on only").All(), 1, "jobs, the first time")
	wrong := r.logs.FilterMessage("new settings cannot be used, going on with those of before").All()
	require.Len(t, wrong, 1)
	require.Contains(t, wrong[0].ContextMap()["error"], "did you mean format?")
	require.Contains(t, wrong[0].ContextMap()["why"], r.file)
}

// Files that the new settings name count as soon as they are named, also where
// they are not there yet.
func TestReloadWhenAMissingKeyComes(t *testing.T) {
	t.Parallel()
	r := startReloading(t, time.Millisecond, "sigstore-key: old.key\n")
	r.failWith(errors.New("no such key"))
	key := filepath.Join(filepath.Dir(r.file), "new.key")
	r.write(t, "sigstore-key: "+key+"\n")
	require.False(t, <-r.told)
	r.failWith(nil)
	require.NoError(t, os.WriteFile(key, []byte("key"), 0o600))
	require.Equal(t, []string{key}, (<-r.applied).Keys)
	require.True(t, <-r.told)

	require.NoError(t, os.WriteFile(key, []byte("another key"), 0o600))
	require.Equal(t, []string{key}, (<-r.applied).Keys, "the same settings, another key")
	require.True(t, <-r.told)
}

// SIGHUP reloads what no file tells of: here it looks at none. It is for the whole
// process, so no test runs beside this one that would take it for its own.
func TestReloadOnSIGHUP(t *testing.T) {
	r := startReloading(t, 0, "format: tag\n")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	require.Equal(t, []string{"tag"}, (<-r.applied).Formats)
	require.True(t, <-r.told)
	require.Equal(t, "SIGHUP", r.logs.FilterMessage("settings read anew").All()[0].ContextMap()["why"])
}
