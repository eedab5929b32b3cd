package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/telemetry"
)

// asking are the settings of a command that asks about batches.
type asking struct {
	NATSURL  string      `mapstructure:"nats-url"`
	NATS     config.NATS `mapstructure:",squash"`
	StateDir string      `mapstructure:"state-dir"`
	Output   string      `mapstructure:"output"`
	Debug    bool        `mapstructure:"debug"`

	source *config.Source
	log    *zap.Logger
}

// askingFlags are for commands that look into state directories too.
func askingFlags(flags *pflag.FlagSet, what string, outputs ...string) {
	fleetFlags(flags, what, outputs...)
	stateDirFlag(flags)
}

// fleetFlags are for commands that do something to a fleet alone.
func fleetFlags(flags *pflag.FlagSet, what string, outputs ...string) {
	config.CommonFlags(flags)
	outputFlag(flags, what, outputs...)
}

func stateDirFlag(flags *pflag.FlagSet) {
	flags.String("state-dir", "", "`directory` of the submissions that sign in this process; default: signfleet under $XDG_STATE_HOME")
}

// readAsking reads the settings of a command that can print its answer in these ways.
func readAsking(flags *pflag.FlagSet, std streams, outputs ...string) (*asking, error) {
	a := &asking{}
	source, err := readSource(flags, a)
	if err != nil {
		return nil, err
	}
	if err := checkOutput(a.Output, outputs...); err != nil {
		return nil, program.UsageError{Err: err}
	}
	a.source = source
	a.log = telemetry.NewLogger(std.err, telemetry.LogOptions{Debug: a.Debug})
	a.log.Debug("configuration", zap.String("file", source.File))
	return a, nil
}

// readSource fills settings from flags, environment and the file. The file is
// that of the program: it may have the settings of every command, and those of a
// submission serve all that have the same.
func readSource(flags *pflag.FlagSet, into any) (*config.Source, error) {
	known := pflag.NewFlagSet("sign-submit", pflag.ContinueOnError)
	known.AddFlagSet(flags)
	submission := pflag.NewFlagSet("sign-submit", pflag.ContinueOnError)
	defineFlags(submission)
	submission.VisitAll(func(flag *pflag.Flag) {
		if known.Lookup(flag.Name) == nil {
			flag.Shorthand = "" // the command may have it for another one
			known.AddFlag(flag)
		}
	})
	file, err := flags.GetString("config")
	if err != nil {
		return nil, err
	}
	source, err := config.Read(known, "sign-submit", file, flagsOfCommands()...)
	if err != nil {
		return nil, program.UsageError{Err: err}
	}
	if err := source.Into(into); err != nil {
		return nil, program.UsageError{Err: err}
	}
	return source, nil
}

// flagsOfCommands are the names of all flags that some command has.
func flagsOfCommands() []string {
	var names []string
	for _, command := range commands(streams{}) {
		command.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Name != "config" {
				names = append(names, flag.Name)
			}
		})
	}
	return names
}

// Ways to print an answer.
const (
	outputText = "text"
	outputJSON = "json"
	outputCSV  = "csv"
)

func outputFlag(flags *pflag.FlagSet, what string, outputs ...string) {
	flags.String("output", outputText, "how "+what+" is printed: "+orList(outputs))
}

func checkOutput(output string, known ...string) error {
	if !slices.Contains(known, output) {
		return fmt.Errorf("output: %q is none of %s", output, strings.Join(known, ", "))
	}
	return nil
}

// orList is "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// usage is a mistake in the settings.
func usage(format string, args ...any) error {
	return program.UsageError{Err: fmt.Errorf(format, args...)}
}

// oneBatch takes the name of a batch for an argument, and no more.
func oneBatch(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return fmt.Errorf("%s needs the name of a batch: sign-submit %s; sign-submit batches lists them", cmd.Name(), cmd.Use)
	case len(args) > 1:
		return fmt.Errorf("%s takes one batch, and %q is one too many", cmd.Name(), args[1])
	}
	return checkBatch(args[0])
}

// batchOrNone takes at most the name of a batch.
func batchOrNone(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return oneBatch(cmd, args)
}

func checkBatch(id string) error {
	if !queue.ValidName(id) {
		return fmt.Errorf("%q is not the name of a batch: those have 1 to 64 of a-z, 0-9 and -", id)
	}
	return nil
}

// noArguments is for a command that has none: what looks like one is told apart
// from the list that a submission asks for.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return fmt.Errorf("%s takes no arguments: %q is one too many", cmd.Name(), args[0])
	}
	text := fmt.Sprintf("unknown command %q: an image list is named with --file", args[0])
	if meant := cmd.SuggestionsFor(args[0]); len(meant) > 0 {
		text += ", and there is a command " + orList(meant)
	}
	return errors.New(text)
}
