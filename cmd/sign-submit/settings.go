package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/telemetry"
)

// settings are all that the program was told.
type settings struct {
	config.Signing `mapstructure:",squash"`
	File           string   `mapstructure:"file"`
	Arch           []string `mapstructure:"arch"`
	OS             []string `mapstructure:"os"`
	RegistryName   string   `mapstructure:"registry"`
	Project        string   `mapstructure:"project"`
	Failed         string   `mapstructure:"failed"`
	SkipLogin      bool     `mapstructure:"skip-login"`
	StateDir       string   `mapstructure:"state-dir"`
	Batch          string   `mapstructure:"batch"`
	Resume         string   `mapstructure:"resume"`
	Detach         bool     `mapstructure:"detach"`
	Output         string   `mapstructure:"output"`

	source  *config.Source
	log     *zap.Logger
	list    io.ReaderAt // a copy of the list that nobody else can change
	reports *telemetry.Telemetry
}

// defaultMaxWait is shorter than the daemon's: somebody waits for the end.
const defaultMaxWait = 5 * time.Minute

func defineFlags(flags *pflag.FlagSet) {
	flags.StringP("file", "f", "", "image `list`, or - for standard input")
	flags.StringSliceP("arch", "a", []string{"amd64", "arm64"}, "architectures to sign; an empty one means all")
	flags.StringSlice("os", []string{"linux"}, "operating systems to sign; an empty one means all")
	flags.String("registry", "", "registry to use in place of those in the list")
	flags.String("project", "", "project to use in place of those in the list")
	flags.StringP("failed", "o", "sign-failed.txt", "`file` for the lines that could not be signed")
	flags.Bool("skip-login", false, "do not ask each registry beforehand whether it can be reached with the stored credentials")
	stateDirFlag(flags)
	flags.String("batch", "", "with --nats-url: `name` of the batch; default: one is made up")
	flags.String("resume", "", "with --nats-url: go on with this `batch`")
	flags.Bool("detach", false, "with --nats-url: print the name of the batch once all is submitted, and do not wait for its end")
	outputFlag(flags, "the report", outputText, outputJSON)
	config.SigningFlags(flags, station.Defaults(defaultMaxWait))
}

// readSettings reads and checks what can be checked without a server.
func readSettings(ctx context.Context, flags *pflag.FlagSet, std streams) (*settings, error) {
	s := &settings{}
	source, err := readSource(flags, s) //nolint:contextcheck // the commands whose flags it asks for are not run
	if err != nil {
		return nil, err
	}
	s.source, s.log = source, telemetry.NewLogger(std.err, telemetry.LogOptions{Debug: s.Debug})
	if source.File != "" && !source.Given("config") {
		s.log.Info("configuration found", zap.String("file", source.File))
	}
	if s.File == "" {
		return nil, usage("no image list: name one with --file")
	}
	if err := s.check(std); err != nil {
		return nil, program.UsageError{Err: err}
	}
	if s.list, err = copyList(ctx, s.File, std.in); err != nil {
		return nil, program.UsageError{Err: err}
	}
	if err := s.submission().Validate(); err != nil {
		return nil, errors.Join(program.UsageError{Err: err}, s.cleanup())
	}
	return s, nil
}

// check refuses settings that the chosen way of signing cannot obey.
func (s *settings) check(std streams) error {
	if err := checkOutput(s.Output, outputText, outputJSON); err != nil {
		return err
	}
	if err := s.checkMode(std); err != nil {
		return err
	}
	if !s.Detach {
		return submit.CheckFailed(s.Failed, s.File, append(s.InputFiles(), s.source.File)...)
	}
	if s.source.Given("failed") {
		say(std.err, "warning: %s is ignored with --detach: sign-submit failed BATCH writes the failed list\n", s.source.Where("failed"))
	}
	return nil
}

// checkMode holds the settings to whether a fleet signs or this process.
func (s *settings) checkMode(std streams) error {
	if s.NATSURL == "" {
		for _, name := range []string{"batch", "resume", "detach"} {
			if s.source.Given(name) {
				return fmt.Errorf("%s only goes with --nats-url: signing in this process, the same list and options go on by themselves", s.source.Where(name))
			}
		}
		s.source.VisitGiven(func(name, _ string) {
			if config.IsNATS(name) && name != "nats-url" {
				say(std.err, "warning: %s is ignored without --nats-url: this process signs\n", s.source.Where(name))
			}
		})
		return nil
	}
	if err := refuseWorkerOnly(s.source); err != nil {
		return err
	}
	for _, name := range []string{"jobs", "skip-login", "state-dir"} {
		if s.source.Given(name) {
			say(std.err, "warning: %s is ignored with --nats-url: that is the workers' own business\n", s.source.Where(name))
		}
	}
	if s.Batch != "" && s.Resume != "" && s.Batch != s.Resume {
		return errors.New("--batch and --resume name two batches")
	}
	return nil
}

// refuseWorkerOnly refuses what the workers of a fleet alone can obey.
func refuseWorkerOnly(source *config.Source) error {
	for _, name := range config.WorkerOnly {
		if source.Given(name) {
			return fmt.Errorf("%s does not go with --nats-url: the workers of the fleet sign, each with the setting of its own configuration; "+
				"set it there (sign-worker --%s), or leave out --nats-url to sign in this process", source.Where(name), name)
		}
	}
	return nil
}

// submission is what is asked for, as far as the settings say it.
func (s *settings) submission() submit.Options {
	o := submit.Options{
		File:      s.File,
		Reader:    func() io.Reader { return io.NewSectionReader(s.list, 0, math.MaxInt64) },
		List:      imagelist.Options{Registry: s.RegistryName, Project: s.Project},
		Platforms: platforms(s.OS, s.Arch),
		Timeout:   s.Timeout,
		Batch:     s.Batch,
		OnBadLine: func(bad *imagelist.LineError) {
			s.log.Warn("line cannot be read, it goes to the failed list", zap.String("file", s.File), zap.Int("line", bad.Number), zap.String("problem", bad.Reason), zap.String("text", bad.Text))
		},
	}
	if s.Resume != "" {
		o.Batch, o.Resume = s.Resume, true
	}
	return o
}

// platforms are all pairs of operating system and architecture; an empty list
// of either stands for any.
func platforms(systems, architectures []string) []string {
	anyOf := func(list []string) []string {
		var kept []string
		for _, s := range list {
			if s = strings.TrimSpace(s); s != "" {
				kept = append(kept, s)
			}
		}
		if len(kept) == 0 {
			return []string{"*"}
		}
		return kept
	}
	systems, architectures = anyOf(systems), anyOf(architectures)
	if systems[0] == "*" && architectures[0] == "*" {
		return nil
	}
	var all []string
	for _, system := range systems {
		for _, architecture := range architectures {
			all = append(all, system+"/"+architecture)
		}
	}
	return all
}
