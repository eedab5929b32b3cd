package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/internal/submit"
)

const failedLong = `failed prints the lines of a batch that could not be signed, as they were written
and in the order of the list: ready to be used with --file again. It can be had
from any machine and at any time, as long as the records of the batch are kept.

--output json adds the reasons, and so does csv. With -o the list goes to a file,
and the reasons to a .json file beside it, as those of a submission do.

Without --nats-url it looks into the state directories of the submissions that
sign in their own process.

Exit status: 0 the list is whole or there is nothing on it, 1 an error, 2 a
mistake in the settings. Images that have not ended are told of on standard error.`

const failedExample = `  sign-submit failed nightly --nats-url nats://nats.example.org:4222
  sign-submit failed nightly --nats-url nats://nats.example.org:4222 -o nightly-failed.txt
  sign-submit failed nightly --output csv`

// failedSettings are those of failed.
type failedSettings struct {
	*asking
	to string
}

func failedCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "failed BATCH", Short: "Print the lines of a batch that could not be signed",
		Long: failedLong, Example: failedExample,
		Args: oneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readAsking(cmd.Flags(), std, outputText, outputJSON, outputCSV)
			if err != nil {
				return err
			}
			to, err := cmd.Flags().GetString("to")
			if err != nil {
				return err
			}
			return failedSettings{a, to}.failed(cmd.Context(), args[0], std)
		},
	}
	flags := command.Flags()
	askingFlags(flags, "the list", outputText, outputJSON, outputCSV)
	flags.StringP("to", "o", "", "`file` to write the list to; default: standard output")
	return command
}

// failed prints or writes the failed list of a batch.
func (a failedSettings) failed(ctx context.Context, id string, std streams) error {
	if a.to != "" && a.Output == outputCSV {
		return usage("-o writes the lines, and the reasons as JSON beside them: leave it out to have CSV on standard output")
	}
	if a.to != "" {
		if err := submit.CheckFailed(a.to, ""); err != nil {
			return usage("%w", err)
		}
	}
	batch, where, err := a.find(ctx, id)
	if err != nil {
		return err
	}
	defer where.close()
	report, err := batch.Report(ctx)
	if err != nil {
		return a.explain(ctx, id, err)
	}
	defer report.Close() //nolint:errcheck // a file without a name, and at its end
	if report.NotDone > 0 {
		say(std.err, "batch %s: %d images have not ended and are not on the list\n", id, report.NotDone)
	}
	if a.to == "" {
		return printFailures(std.out, a.Output, report)
	}
	if err := submit.WriteFailed(a.to, report); err != nil {
		return err
	}
	return printReport(std.out, a.Output, writtenTo(report, a.to))
}
