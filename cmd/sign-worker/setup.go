package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/telemetry"
)

const setupLong = `sign-worker setup makes the streams, consumers and buckets of a fleet on its NATS
server, and gives those that are there the limits of its flags. It says what it
has changed. It may be run at any time, also while the fleet is at work, and run
again it changes nothing.

It needs the permissions of the operator. What it finds on the server and would
have to break is left as it is, and told.

Exit status: 0 when all is as it should be now, 1 after a failure, 2 for a mistake
in the settings.`

// setupCommand is the command of whoever runs the NATS server.
func setupCommand(stdout, stderr io.Writer) *cobra.Command {
	command := &cobra.Command{
		Use:   "setup --nats-url URL",
		Short: "Make or update the streams of a fleet on its NATS server",
		Long:  setupLong,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return setup(cmd.Context(), cmd.Flags(), stdout, stderr)
		},
	}
	flags := command.Flags()
	config.CommonFlags(flags)
	config.QueueFlags(flags)
	flags.String("output", "text", "how what was changed is printed: text or json")
	return command
}

// setupSettings are those of the streams, and of how to tell what became of them.
type setupSettings struct {
	config.Queue `mapstructure:",squash"`
	NATS         config.NATS `mapstructure:",squash"`
	NATSURL      string      `mapstructure:"nats-url"`
	Output       string      `mapstructure:"output"`
	Debug        bool        `mapstructure:"debug"`
}

func readSetupSettings(flags *pflag.FlagSet, stderr io.Writer) (*setupSettings, error) {
	source, err := readWith(flags)
	if err != nil {
		return nil, err
	}
	s := &setupSettings{}
	if err := source.Into(s); err != nil {
		return nil, err
	}
	if s.Output != "text" && s.Output != "json" {
		return nil, fmt.Errorf("output: %q is none of text, json", s.Output)
	}
	log := telemetry.NewLogger(stderr, telemetry.LogOptions{Debug: s.Debug})
	log.Debug("configuration", zap.String("file", source.File))
	return s, nil
}

// readWith reads the settings of a command beside the worker's own, which are in
// the same file.
func readWith(flags *pflag.FlagSet) (*config.Source, error) {
	file, err := flags.GetString("config")
	if err != nil {
		return nil, err
	}
	known := pflag.NewFlagSet(programName, pflag.ContinueOnError)
	known.AddFlagSet(flags)
	workers := pflag.NewFlagSet(programName, pflag.ContinueOnError)
	defineFlags(workers)
	known.AddFlagSet(workers)
	return config.Read(known, programName, file, config.RulesKey)
}

// setup lays out the streams.
func setup(ctx context.Context, flags *pflag.FlagSet, stdout, stderr io.Writer) error {
	s, err := readSetupSettings(flags, stderr)
	if err != nil {
		return program.UsageError{Err: err}
	}
	options, err := queueOptions(s.Queue, s.NATS, s.NATSURL)
	if err != nil {
		return program.UsageError{Err: err}
	}
	options.Role, options.Name = queue.RoleOperator, "sign-worker setup"
	changes, err := layOut(ctx, options)
	// What was changed before a failure has been changed.
	err = errors.Join(printChanges(stdout, s.Output, changes, err == nil), err)
	if denied := new(queue.DeniedError); errors.As(err, &denied) {
		return fmt.Errorf("setup needs the credentials of the operator: %w", err)
	}
	return err
}

func layOut(ctx context.Context, options queue.Options) ([]queue.Change, error) {
	conn, err := open(ctx, options)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Setup(ctx)
}

// printChanges tells what setup did; done is whether it came to its end.
func printChanges(w io.Writer, output string, changes []queue.Change, done bool) error {
	if output == "json" {
		if changes == nil {
			changes = []queue.Change{}
		}
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"changes": changes})
	}
	for _, change := range changes {
		if _, err := fmt.Fprintf(w, "%s: %s\n", change.Name, change.What); err != nil {
			return err
		}
	}
	if done && len(changes) == 0 {
		_, err := fmt.Fprintln(w, "everything is set up as it should be")
		return err
	}
	return nil
}
