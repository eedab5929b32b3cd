package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

const waitLong = `wait follows a batch of a fleet until all its images have ended, from any machine,
and says how. It may be interrupted and begun again: it changes nothing.

Exit status: 0 all images signed or skipped, 1 some failed, or an error, 2 a
mistake in the settings, 130 interrupted.`

const waitExample = `  sign-submit wait nightly --nats-url nats://nats.example.org:4222`

func waitCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "wait BATCH", Short: "Wait for the end of a batch of a fleet", Long: waitLong, Example: waitExample,
		Args: oneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readAsking(cmd.Flags(), std, outputText, outputJSON)
			if err != nil {
				return err
			}
			if err := a.needFleet("wait", "a submission that signs in its own process goes on when the same command is run again"); err != nil {
				return err
			}
			return a.wait(cmd.Context(), args[0], std)
		},
	}
	fleetFlags(command.Flags(), "the report", outputText, outputJSON)
	return command
}

// wait follows a batch to its end, and reports.
func (a *asking) wait(ctx context.Context, id string, std streams) error {
	conn, err := a.connectFleet(ctx, queue.RoleSubmitter)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer conn.Close()
	batch, err := submit.Find(ctx, conn, id)
	if err != nil {
		return a.explain(ctx, id, err)
	}
	say(std.err, "batch %s\n", id)
	progress := newProgress(std.err)
	told := tellWithoutWorkers(ctx, conn.Present, progress)
	err = batch.Wait(ctx, progress.show)
	told()
	progress.end()
	if ctx.Err() != nil {
		say(std.err, "interrupted: nothing is cancelled, the workers go on\n")
		return errInterrupted
	}
	if err != nil {
		return a.explain(ctx, id, err)
	}
	return a.reportEnd(ctx, batch, id, std)
}

// tellOfList says how to have the failed list of a batch.
func (a *asking) tellOfList(std streams, id string) {
	where := ""
	switch {
	case a.NATSURL != "":
		where = " " + a.fleetFlags()
	case a.StateDir != "":
		where = " --state-dir " + shellWord(a.StateDir)
	}
	say(std.err, "the failed list: sign-submit failed %s%s\n", id, where)
}

// reportEnd says how a batch ended that has nothing pending, and closes it.
func (a *asking) reportEnd(ctx context.Context, batch *submit.Batch, id string, std streams) error {
	report, err := batch.Report(ctx)
	if err != nil {
		return a.explain(ctx, id, err)
	}
	defer report.Close() //nolint:errcheck // a file without a name, and at its end
	if err := printReport(std.out, a.Output, ended(report)); err != nil {
		return err
	}
	if err := batch.Finish(ctx); err != nil {
		return a.explain(ctx, id, err)
	}
	if report.Failed() == 0 {
		return nil
	}
	a.tellOfList(std, id)
	return program.Ended{Status: program.ExitFailed}
}
