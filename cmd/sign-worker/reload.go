package main

import (
	"context"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/policy"
	"github.com/signfleet/signfleet/internal/telemetry"
)

// reloader gives a running worker the settings that have changed since it
// began: what it signs and with what, and what it logs. It does so on SIGHUP, and
// when a file has changed that they come from. What cannot be read or obeyed
// changes nothing.
type reloader struct {
	flags *pflag.FlagSet
	log   *zap.Logger
	// apply has new settings hold.
	apply func(ctx context.Context, s *settings) error
	// tell is told how it went.
	tell func(ok bool)

	hangups chan os.Signal
	current *settings
	tried   *settings // that could not be used; nil when the last could, or could not even be read
	failed  time.Time // when the last failed; zero when it did not
	seen    look
	pending look // changed files, as they were at the last look; nil when none were
}

// failedAgain is how long settings that could not be used are left before they are
// tried again as they are: what they need may have been away.
const failedAgain = time.Minute

// newReloader has SIGHUP mean a reload from now on, and not the end of the
// process. It looks at the files as they are before the rest of the start reads them.
func newReloader(flags *pflag.FlagSet, s *settings) *reloader {
	r := &reloader{flags: flags, log: s.log, current: s, hangups: make(chan os.Signal, 1)}
	r.seen = r.look()
	signal.Notify(r.hangups, syscall.SIGHUP)
	return r
}

// stop gives SIGHUP its usual meaning back.
func (r *reloader) stop() { signal.Stop(r.hangups) }

// start begins to reload what st signs with and what is logged, and counts how
// that goes.
func (r *reloader) start(ctx context.Context, s *settings, st *station.Station, reports *telemetry.Telemetry) (stop func(), err error) {
	reloads, err := reports.Meters.Meter("github.com/signfleet/signfleet/cmd/sign-worker").Int64Counter("signfleet.reloads",
		metric.WithUnit("{reload}"), metric.WithDescription("Times that the settings were read anew, by result."))
	if err != nil {
		return nil, err
	}
	success := metric.WithAttributes(attribute.String("result", "success"))
	failure := metric.WithAttributes(attribute.String("result", "failure"))
	reloads.Add(ctx, 0, success)
	reloads.Add(ctx, 0, failure)
	r.tell = func(ok bool) {
		if ok {
			reloads.Add(ctx, 1, success)
			return
		}
		reloads.Add(ctx, 1, failure)
	}
	r.apply = func(ctx context.Context, next *settings) error {
		if err := st.Reload(ctx, next.Signing, next.source); err != nil {
			return err
		}
		s.level.SetLevel(next.logLevel())
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { r.run(ctx, s.ReloadInterval) })
	return func() {
		cancel()
		running.Wait()
	}, nil
}

// run reloads whenever that is asked for, until ctx ends. It looks at the files
// every so often; never when that is 0.
func (r *reloader) run(ctx context.Context, every time.Duration) {
	var ticks <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		why := "SIGHUP"
		select {
		case <-ctx.Done():
			return
		case <-r.hangups:
		case <-ticks:
			if why = r.reason(); why == "" || r.unsettled() {
				continue
			}
		}
		// What changes while it is being read is seen by the next look.
		r.seen = r.look()
		r.reload(ctx, why)
	}
}

// unsettled reports whether files have changed since the last look: somebody may
// be writing them, and what is there of them is not what they will say.
func (r *reloader) unsettled() bool {
	now := r.look()
	if settled := r.pending != nil && now.same(r.pending); settled {
		r.pending = nil
		return false
	}
	r.pending = now
	return true
}

// reason is why a look at the files leads to a reload; empty when it does not.
func (r *reloader) reason() string {
	if changed := r.seen.changed(); len(changed) > 0 {
		return "changed: " + strings.Join(changed, ", ")
	}
	if !r.failed.IsZero() && time.Since(r.failed) >= failedAgain {
		return "they could not be used before"
	}
	return ""
}

// reload reads the settings anew and has them hold.
func (r *reloader) reload(ctx context.Context, why string) {
	next, err := parseSettings(r.flags, r.current.source.File)
	r.tried = next
	r.seen.add(r.look()) // as the files were before they are read
	if err == nil {
		err = r.apply(ctx, next)
	}
	defer func() { r.tell(err == nil) }()
	if err != nil {
		r.failed = time.Now()
		r.log.Error("new settings cannot be used, going on with those of before", zap.String("why", why), zap.Error(err))
		return
	}
	changed := next.source.Changed(r.current.source)
	if late := config.NeedRestart(changed); len(late) > 0 {
		r.log.Warn("settings have changed that hold from the next start on only", zap.Strings("settings", late))
	}
	r.current, r.tried, r.failed = next, nil, time.Time{}
	r.log.Info("settings read anew", zap.String("why", why), zap.Strings("changed", changed))
}

// look is how the files were that settings come from.
type look map[string]config.Stamp

// look looks at the files of the settings that hold, and of those that were to.
func (r *reloader) look() look {
	l := make(look)
	for _, s := range []*settings{r.current, r.tried} {
		if s == nil {
			continue
		}
		for _, file := range s.reloadedFiles() {
			l[file] = config.StampOf(file)
		}
	}
	return l
}

// add adds the files that were not looked at before.
func (l look) add(more look) {
	for file, stamp := range more {
		if _, ok := l[file]; !ok {
			l[file] = stamp
		}
	}
}

// same reports whether all files were as they were at another look.
func (l look) same(other look) bool {
	return maps.EqualFunc(l, other, config.Stamp.Same)
}

// changed are the files that are not as they were.
func (l look) changed() []string {
	var files []string
	for file, stamp := range l {
		if !stamp.Same(config.StampOf(file)) {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

// reloadedFiles are the files that settings come from which can be given anew.
func (s *settings) reloadedFiles() []string {
	files := s.SigningFiles()
	if s.source.File != "" {
		files = append(files, s.source.File)
	}
	if s.Policy == "" && !s.InsecurePolicy {
		home, _ := os.UserHomeDir() // none: the system's policy is left
		files = append(files, policy.DefaultFiles(home)...)
	}
	return files
}
