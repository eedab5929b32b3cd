package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/rules"
)

const configLong = `sign-worker config looks at settings and touches nothing.`

const configCheckLong = `sign-worker config check reads a configuration file as sign-worker does and says
what is wrong in it. It looks at the file alone: not at the environment, not at
the keys and policies that it names, and at no server.

Exit status: 0 when the file is good, 2 when it is not.`

const configPrintLong = `sign-worker config print prints the settings that sign-worker would have with the
same flags, environment and file, as a configuration file has them. Those that
are not defaults say where they come from. Passwords in URLs are masked.

Exit status: 0, or 2 for a mistake in the settings.`

// configCommand is about settings.
func configCommand(stdout io.Writer) *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Check the configuration file, or print the settings",
		Long:  configLong,
		RunE: func(*cobra.Command, []string) error {
			return program.UsageError{Err: errors.New("config: say what about it, check or print")}
		},
	}
	check := &cobra.Command{
		Use:   "check [--config FILE]",
		Short: "Say what is wrong in a configuration file",
		Long:  configCheckLong,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := cmd.Flags().GetString("config")
			if err != nil {
				return err
			}
			return checkConfig(file, stdout)
		},
	}
	check.Flags().String("config", "", "configuration `file`; default: where sign-worker looks for it")
	printing := &cobra.Command{
		Use:   "print [flags of sign-worker]",
		Short: "Print the settings, and where they come from",
		Long:  configPrintLong,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printConfig(cmd.Flags(), stdout)
		},
	}
	defineFlags(printing.Flags())
	command.AddCommand(check, printing)
	return command
}

// checkConfig checks a file by itself.
func checkConfig(file string, stdout io.Writer) error {
	flags := pflag.NewFlagSet(programName, pflag.ContinueOnError)
	defineFlags(flags)
	source, err := config.ReadFile(flags, programName, file, config.RulesKey)
	if err != nil {
		return program.UsageError{Err: err}
	}
	s := &settings{source: source}
	if err := source.Into(s); err != nil {
		return program.UsageError{Err: fmt.Errorf("configuration %s: %w", source.File, err)}
	}
	list, err := source.Rules()
	if err != nil {
		return program.UsageError{Err: err}
	}
	if err := s.check(list); err != nil {
		return program.UsageError{Err: fmt.Errorf("configuration %s: %w", source.File, err)}
	}
	_, err = fmt.Fprintf(stdout, "%s is good\n", source.File)
	return err
}

// check names what no server, and no file that the settings name, could make right.
func (s *settings) check(list []rules.Rule) error {
	url := cmp.Or(s.NATSURL, "nats://somewhere") // it may be said elsewhere
	o, errQueue := queueOptions(s.Queue, s.NATS, url)
	if o.LockTTL = s.LockTTL; errQueue == nil {
		errQueue = o.Validate()
	}
	return errors.Join(s.Signing.Validate(), s.limits().Validate(), s.checkOwn(), errQueue, s.CheckRules(list))
}

// printConfig prints the settings.
func printConfig(flags *pflag.FlagSet, stdout io.Writer) error {
	file, err := flags.GetString("config")
	if err != nil {
		return err
	}
	s, err := parseSettings(flags, file)
	if err != nil {
		return program.UsageError{Err: err}
	}
	if _, err := s.source.Rules(); err != nil {
		return program.UsageError{Err: err}
	}
	return s.source.Print(stdout)
}
