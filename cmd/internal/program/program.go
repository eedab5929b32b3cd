// Package program is what the programs have in common around their work: how a
// command line is run, what a signal does, and what the exit status says.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2   // a mistake in the settings: nothing was begun
	ExitInterrupted = 130 // stopped by a signal, as shells say it
)

// UsageError is a mistake in the settings, found before anything was begun.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Ended is the end of a program with a status whose reason the user has been told.
type Ended struct{ Status int }

func (e Ended) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// Run runs a command, or the one of its subcommands that the arguments name. A
// command without Args takes none but flags. Its context ends with the first
// SIGINT or SIGTERM; the second ends the process at once.
func Run(command *cobra.Command, args []string, stdout, stderr io.Writer) int {
	command.SilenceUsage, command.SilenceErrors = true, true
	command.CompletionOptions.DisableDefaultCmd = true
	takeMistakesForUsage(command)
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)

	ctx, stop := untilSignal(context.Background())
	defer stop()
	called, err := command.ExecuteContextC(ctx)
	return exitStatus(called, err, stderr)
}

// takeMistakesForUsage makes the mistakes in the arguments of a command and its
// subcommands, and in their flags, UsageErrors.
func takeMistakesForUsage(command *cobra.Command) {
	check := command.Args
	if check == nil {
		check = cobra.NoArgs
	}
	command.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return UsageError{err}
		}
		return nil
	}
	command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return UsageError{err} })
	for _, sub := range command.Commands() {
		takeMistakesForUsage(sub)
	}
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. The
// second ends the process, also where the shell that started it has it ignore
// signals, as shells do with what runs in the background.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	stopped := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for first := true; ; first = false {
			select {
			case <-stopped:
				return
			case <-signals:
				if !first {
					os.Exit(ExitInterrupted) //nolint:forbidigo // at once is what the second signal means
				}
				cancel()
			}
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		close(stopped)
		watching.Wait()
		cancel()
	}
}

// exitStatus turns the end of a run into the program's, and tells the reason
// where that has not been done.
func exitStatus(called *cobra.Command, err error, stderr io.Writer) int {
	var usage UsageError
	var ended Ended
	name := called.Root().Name()
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &ended):
		return ended.Status
	case errors.Is(err, context.Canceled):
		Say(stderr, "%s: interrupted\n", name)
		return ExitInterrupted
	case errors.As(err, &usage):
		Say(stderr, "%s: %v\nSee %s --help.\n", name, err, called.CommandPath())
		return ExitUsage
	}
	Say(stderr, "%s: %v\n", name, err)
	return ExitFailed
}

// Say writes to the user; there is nobody to tell when that fails.
func Say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format, args...)
}
