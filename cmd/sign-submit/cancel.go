package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

const cancelLong = `cancel ends a batch of a fleet: within two seconds no worker begins an image of it
or goes on with one. What is signed stays signed; the rest ends as cancelled, and
is on the failed list. sign-submit retry asks for it again.

Exit status: 0 cancelled, 1 an error, 2 a mistake in the settings.`

const cancelExample = `  sign-submit cancel nightly --nats-url nats://nats.example.org:4222`

func cancelCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "cancel BATCH", Short: "End a batch of a fleet", Long: cancelLong, Example: cancelExample,
		Args: oneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readAsking(cmd.Flags(), std, outputText, outputJSON)
			if err != nil {
				return err
			}
			if err := a.needFleet("cancel", "a submission that signs in its own process is ended with Ctrl-C"); err != nil {
				return err
			}
			return a.cancel(cmd.Context(), args[0], std)
		},
	}
	fleetFlags(command.Flags(), "what was done", outputText, outputJSON)
	return command
}

// cancelled is the answer of cancel.
type cancelled struct {
	Batch string `json:"batch"`
	// Waiting is how many requests had not ended when the batch was cancelled.
	Waiting int `json:"waiting"`
}

func (a *asking) cancel(ctx context.Context, id string, std streams) error {
	conn, err := a.connectFleet(ctx, queue.RoleSubmitter)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer conn.Close()
	batch, err := submit.Find(ctx, conn, id)
	if err != nil {
		return a.explain(ctx, id, err)
	}
	waiting, err := conn.Waiting(ctx, id)
	if err != nil {
		return a.explain(ctx, id, err)
	}
	// A mark on what has ended would keep it out of later retries of all.
	record, err := conn.Batch(ctx, id)
	ended := err == nil && record.Published && waiting == 0
	if !ended {
		if err := batch.Cancel(ctx); err != nil {
			return a.explain(ctx, id, err)
		}
	}
	if a.Output == outputJSON {
		return printJSON(std.out, cancelled{Batch: id, Waiting: waiting})
	}
	if ended {
		say(std.out, "batch %s has ended: there is nothing to cancel\n", id)
		return nil
	}
	say(std.out, "batch %s is cancelled: %d requests were waiting or in work\n", id, waiting)
	return nil
}
