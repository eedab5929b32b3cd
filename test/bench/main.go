// Command bench measures, and judges nothing but its own figures beside their
// targets: sign-submit side by side with other signers and with the bare
// sequence of requests, on a real registry behind a relay that counts and
// delays; what one image more costs; how a fleet grows; and what the queue and
// the worker loop around it take.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/signfleet/signfleet/test/bench/floor"
)

// floorCommand makes this program sign as the floor does, in a process of its
// own that can be measured.
const floorCommand = "floor"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == floorCommand {
		err = runFloor(ctx, os.Args[2:])
	} else {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func runFloor(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(floorCommand, flag.ContinueOnError)
	list := flags.String("list", "", "image list")
	key := flags.String("key", "", "PKCS#8 key, not encrypted")
	jobs := flags.Int("jobs", 4, "images signed at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return floor.Sign(ctx, *list, *key, *jobs)
}

// choices are what the flags say.
type choices struct {
	what     []string
	storage  string
	programs string
	json     string
	engines  engineOptions
	growth   growthOptions
	scale    scaleOptions
	queue    queueOptions
}

// The parts that can be measured.
const (
	partEngines = "engines"
	partGrowth  = "growth"
	partScale   = "scale"
	partQueue   = "queue"
)

func parts() []string { return []string{partEngines, partGrowth, partScale, partQueue} }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if err != nil {
		return err
	}
	r := newReport()
	b, err := prepare(ctx, c.storage, c.programs)
	if err != nil {
		return err
	}
	measured := measureParts(ctx, b, c, r, stderr)
	if err := errors.Join(measured, b.close()); err != nil {
		return err
	}
	r.end()
	if err := printReport(stdout, r); err != nil {
		return err
	}
	if c.json == "" {
		return nil
	}
	return r.write(c.json)
}

// measureParts measures one part after the other.
func measureParts(ctx context.Context, b *bed, c choices, r *report, progress io.Writer) error {
	for _, part := range c.what {
		var err error
		switch part {
		case partEngines:
			r.Engines = &Engines{}
			*r.Engines, err = compareEngines(ctx, b, c.engines, progress)
			r.Engines.Storage = c.storage
		case partGrowth:
			r.Growth = &Growth{}
			*r.Growth, err = measureGrowth(ctx, b, c.growth, progress)
		case partScale:
			r.Scale = &Scale{}
			*r.Scale, err = measureScale(ctx, b, c.scale, progress)
		case partQueue:
			r.Queue, err = measureQueue(ctx, b.programs, c.queue, progress)
		}
		if err != nil {
			return fmt.Errorf("measuring %s: %w", part, err)
		}
	}
	return nil
}

func parse(args []string, stderr io.Writer) (choices, error) {
	c := choices{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	what := flags.String("what", "all", "what to measure: "+strings.Join(parts(), ", ")+", or all; engines and queue take 10 minutes, the others 20")
	flags.StringVar(&c.storage, "registry", "disk", "where the registry has its files: disk or tmpfs ("+tmpfs+")")
	flags.StringVar(&c.programs, "programs", "", "directory of the sign-submit and sign-worker to measure; default: built from this checkout")
	flags.StringVar(&c.json, "json", "", "file for the same figures as JSON")
	rounds := flags.Int("rounds", 3, "how often each measurement is made; the median counts")

	flags.IntVar(&c.engines.Images, "images", 60, "engines: images, each an index and two children")
	flags.IntVar(&c.engines.Repositories, "repositories", 10, "engines, scale: repositories that the images are in")
	jobs := flags.String("jobs", "1,4,20", "engines: images signed at once")
	delays := flags.String("delay", "0,20ms", "engines: how long each request is held back")
	signers := flags.String("signers", "ours,cosign,hangar,floor", "engines: who signs; floor-direct is the floor without the relay")
	flags.IntVar(&c.engines.CosignImages, "cosign-images", 8, "engines: how many of the images cosign signs")
	flags.IntVar(&c.engines.HostRequests, "host-requests", 0, "engines: --host-requests of sign-submit; 0: 3 a job, and no less than its default of 16")

	sizes := flags.String("sizes", "100,1000,10000", "growth: images of the lists, from short to long")
	flags.IntVar(&c.growth.Jobs, "growth-jobs", comparedJobs, "growth: images signed at once")

	workers := flags.String("workers", "1,2,4,8", "scale: worker processes")
	flags.IntVar(&c.scale.Images, "scale-images", 240, "scale: images")
	flags.IntVar(&c.scale.Jobs, "scale-jobs", 2, "scale: images that each worker signs at once")
	flags.DurationVar(&c.scale.Delay, "scale-delay", 100*time.Millisecond, "scale: how long each request is held back")
	scaleRounds := flags.Int("scale-rounds", 1, "scale: how often each fleet is measured")

	flags.IntVar(&c.queue.Requests, "requests", 60_000, "queue: requests to publish and to consume")
	flags.IntVar(&c.queue.Synced, "synced", 5_000, "queue: the same for a server that syncs each write")
	flags.IntVar(&c.queue.Ahead, "ahead", 100_000, "queue: requests in front of others, to see how fair the lanes are")
	flags.IntVar(&c.queue.Lines, "lines", 0, "queue: lines of a list whose submission to a fleet is measured for its memory; 0 leaves that out")
	flags.IntVar(&c.queue.Alone, "alone", 0, "queue: the same for a submission that signs by itself")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	c.engines.Rounds, c.growth.Rounds, c.scale.Rounds = *rounds, *rounds, *scaleRounds
	c.engines.Signers = strings.Split(*signers, ",")
	c.growth.PerRepository = max(1, c.engines.Images/max(1, c.engines.Repositories))
	c.scale.Repositories = c.engines.Repositories
	c.what = strings.Split(*what, ",")
	if *what == "all" {
		c.what = parts()
	}
	var err error
	for _, list := range []struct {
		flag, text string
		into       *[]int
	}{{"-jobs", *jobs, &c.engines.Jobs}, {"-sizes", *sizes, &c.growth.Sizes}, {"-workers", *workers, &c.scale.Workers}} {
		if *list.into, err = eachOf(list.text, positive); err != nil {
			return c, fmt.Errorf("%s: %w", list.flag, err)
		}
	}
	if c.engines.Delays, err = eachOf(*delays, time.ParseDuration); err != nil {
		return c, fmt.Errorf("-delay: %w", err)
	}
	return c, c.check()
}

// check refuses what cannot be measured before anything is started.
func (c choices) check() error {
	for _, part := range c.what {
		if !slices.Contains(parts(), part) {
			return fmt.Errorf("-what: %q cannot be measured: choose of %s, or all", part, strings.Join(parts(), ", "))
		}
	}
	if _, ok := storages()[c.storage]; !ok {
		return fmt.Errorf("-registry: %q is neither disk nor tmpfs", c.storage)
	}
	for _, n := range []int{c.engines.Images, c.engines.Repositories, c.engines.Rounds, c.engines.CosignImages, c.growth.Jobs, c.scale.Images, c.scale.Jobs, c.scale.Rounds} {
		if n < 1 {
			return errors.New("images, repositories, rounds and jobs are at least 1")
		}
	}
	_, _, err := chosenSigners(c.engines.Signers, c.engines)
	return err
}

// eachOf reads a list separated by commas.
func eachOf[T any](text string, read func(string) (T, error)) ([]T, error) {
	var all []T
	for word := range strings.SplitSeq(text, ",") {
		one, err := read(strings.TrimSpace(word))
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func positive(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err == nil && n < 1 {
		err = fmt.Errorf("%d is not a number above 0", n)
	}
	return n, err
}
