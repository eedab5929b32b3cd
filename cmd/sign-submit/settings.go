package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
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

	source *config.Source
	log    *zap.Logger
	list   io.ReaderAt // a copy of the list that nobody else can change
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
	flags.String("state-dir", "", "`directory` of the submissions that sign in this process; default: signfleet under $XDG_STATE_HOME")
	flags.String("batch", "", "with --nats-url: `name` of the batch; default: one is made up")
	flags.String("resume", "", "with --nats-url: go on with this `batch`")
	config.SigningFlags(flags, station.Defaults(defaultMaxWait))
}

// readSettings reads and checks what can be checked without a server.
func readSettings(flags *pflag.FlagSet, std streams) (*settings, error) {
	file, err := flags.GetString("config")
	if err != nil {
		return nil, err
	}
	source, err := config.Read(flags, "sign-submit", file)
	if err != nil {
		return nil, program.UsageError{Err: err}
	}
	s := &settings{source: source}
	if err := source.Into(s); err != nil {
		return nil, program.UsageError{Err: err}
	}
	s.log = telemetry.NewLogger(std.err, telemetry.LogOptions{Debug: s.Debug})
	if file == "" && source.File != "" {
		s.log.Info("configuration found", zap.String("file", source.File))
	}
	if s.File == "" {
		return nil, program.UsageError{Err: errors.New("no image list: name one with --file")}
	}
	if err := s.checkMode(std); err != nil {
		return nil, program.UsageError{Err: err}
	}
	if err := submit.CheckFailed(s.Failed, s.File); err != nil {
		return nil, program.UsageError{Err: err}
	}
	if err := s.copyList(std.in); err != nil {
		return nil, program.UsageError{Err: err}
	}
	if err := s.submission().Validate(); err != nil {
		return nil, errors.Join(program.UsageError{Err: err}, s.cleanup())
	}
	return s, nil
}

// checkMode refuses settings that the chosen way of signing cannot obey.
func (s *settings) checkMode(std streams) error {
	if s.NATSURL == "" {
		for _, name := range []string{"batch", "resume"} {
			if s.source.Given(name) {
				return fmt.Errorf("%s only goes with --nats-url: signing in this process, the same list and options go on by themselves", s.source.Where(name))
			}
		}
		return nil
	}
	for _, name := range config.WorkerOnly {
		if s.source.Given(name) {
			return fmt.Errorf("%s does not go with --nats-url: the workers of the fleet sign, each with the setting of its own configuration; "+
				"set it there (sign-worker --%s), or leave out --nats-url to sign in this process", s.source.Where(name), name)
		}
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

// listInMemory is the length from which on a list is copied to a file.
const listInMemory = 4 << 20

// copyList makes a copy of the list: it is read several times, may come from a
// pipe, and must stay the same to the end. A file for it has no name, so nothing
// of it is left however the program ends.
func (s *settings) copyList(stdin io.Reader) error {
	from := stdin
	if s.File != "-" {
		if info, err := os.Stat(s.File); err == nil && info.IsDir() {
			return fmt.Errorf("image list %s: it is a directory", s.File)
		}
		list, err := os.Open(s.File)
		if err != nil {
			return fmt.Errorf("image list: %w", err)
		}
		defer list.Close() //nolint:errcheck // only read
		from = list
	}
	head, err := io.ReadAll(io.LimitReader(from, listInMemory))
	if err != nil {
		return fmt.Errorf("image list %s: %w", s.File, err)
	}
	if s.list = bytes.NewReader(head); len(head) < listInMemory {
		return nil
	}
	return s.copyToFile(head, from)
}

// copyToFile is for lists that are too long to be held in memory.
func (s *settings) copyToFile(head []byte, rest io.Reader) error {
	copied, err := os.CreateTemp("", "sign-submit-*")
	if err != nil {
		return fmt.Errorf("copy the image list: %w", err)
	}
	s.list = copied
	if err := os.Remove(copied.Name()); err != nil {
		return errors.Join(fmt.Errorf("copy the image list: %w", err), s.cleanup())
	}
	if _, err := io.Copy(copied, io.MultiReader(bytes.NewReader(head), rest)); err != nil {
		return errors.Join(fmt.Errorf("image list %s: %w", s.File, err), s.cleanup())
	}
	return nil
}

// cleanup gives up the copy of the list.
func (s *settings) cleanup() error {
	if file, ok := s.list.(io.Closer); ok {
		return file.Close()
	}
	return nil
}
