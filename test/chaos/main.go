// Command chaos torments fleets and closes their books: for each scenario it
// starts sign-worker processes, a nats-server or three and a registry, has a few
// hundred images signed, does to them meanwhile what the scenario says, and
// complains when anything was lost, done twice or left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/signfleet/signfleet/test/chaos/scenario"
	"github.com/signfleet/signfleet/test/peers/build"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errChaos says that there are complaints, which have been printed.
var errChaos = errors.New("some books do not close")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	names := flags.String("scenario", "all", "scenarios to run, separated by commas: "+strings.Join(allNames(), ", "))
	var c scenario.Config
	flags.IntVar(&c.Images, "images", 300, "lines of each image list")
	flags.IntVar(&c.Workers, "workers", 5, "processes that sign")
	flags.DurationVar(&c.Duration, "duration", time.Minute, "how long each fleet is tormented")
	flags.DurationVar(&c.Stop, "stop", 70*time.Second, "how long a worker is stopped for")
	flags.DurationVar(&c.Lease, "lease", time.Minute, "how long the locks of a worker outlive it")
	flags.IntVar(&c.Verify, "verify", 0, "how many references of each key cosign is asked about; 0 means all")
	flags.Uint64Var(&c.Seed, "seed", 0, "what the random choices follow from; 0 means a new one for each scenario")
	flags.StringVar(&c.Dir, "dir", "", "where the logs of failed runs are kept; default: the directory for temporary files")
	flags.StringVar(&c.Binaries, "binaries", "", "directory of the sign-worker and sign-submit to torment; default: built from this checkout")
	flags.BoolVar(&c.Keep, "keep", false, "keep the logs of runs without complaints too")
	list := flags.Bool("list", false, "say what the scenarios are, and run none")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	c.Compare = true
	all, err := chosen(*names)
	if err != nil {
		say(stderr, "chaos: %v\n", err)
		return 2
	}
	if *list {
		for _, s := range all {
			say(stdout, "%-10s %s\n", s.Name, s.Does)
		}
		return 0
	}
	if err := runAll(ctx, all, c, stdout); err != nil {
		say(stderr, "chaos: %v\n", err)
		return 1
	}
	return 0
}

func allNames() []string {
	var names []string
	for _, s := range scenario.All() {
		names = append(names, s.Name)
	}
	return names
}

func chosen(names string) ([]scenario.Scenario, error) {
	if names == "all" {
		return scenario.All(), nil
	}
	var all []scenario.Scenario
	for name := range strings.SplitSeq(names, ",") {
		s, ok := scenario.Find(name)
		if !ok {
			return nil, fmt.Errorf("there is no scenario %q: choose of %s", name, strings.Join(allNames(), ", "))
		}
		all = append(all, s)
	}
	return all, nil
}

// runAll runs one scenario after the other, all of them whatever becomes of one.
func runAll(ctx context.Context, all []scenario.Scenario, c scenario.Config, out io.Writer) error {
	if c.Binaries == "" {
		binaries, err := os.MkdirTemp("", "chaos-bin-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(binaries) //nolint:errcheck // a leftover in the temporary directory harms nobody
		if err := build.Own(ctx, binaries, "./cmd/..."); err != nil {
			return err
		}
		c.Binaries = binaries
	}
	if c.Dir == "" {
		c.Dir = os.TempDir()
	}
	// Programs have a directory of their own.
	for _, dir := range []*string{&c.Binaries, &c.Dir} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = absolute
	}
	var reports []*scenario.Report
	var failed error
	for _, s := range all {
		one := c
		if one.Seed == 0 {
			one.Seed = rand.Uint64()
		}
		say(out, "== %s: %s (seed %d)\n", s.Name, s.Does, one.Seed)
		report, err := s.Run(ctx, one)
		if report != nil {
			describe(out, report)
			reports = append(reports, report)
		}
		if err != nil {
			say(out, "   could not be run: %v\n", err)
		}
		if err != nil || len(report.Complaints) > 0 {
			failed = errChaos
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	summarize(out, reports)
	return failed
}
