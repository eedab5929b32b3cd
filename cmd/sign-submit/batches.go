package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

const batchesLong = `batches lists all batches there are records of.

Without --nats-url it looks into the state directories of the submissions that
sign in their own process. One that is running cannot be looked into.

Exit status: 0 listed, 1 an error, 2 a mistake in the settings.`

const batchesExample = `  sign-submit batches --nats-url nats://nats.example.org:4222
  sign-submit batches --output json`

func batchesCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "batches", Short: "List all batches", Long: batchesLong, Example: batchesExample,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := readAsking(cmd.Flags(), std, outputText, outputJSON)
			if err != nil {
				return err
			}
			return a.batches(cmd.Context(), std)
		},
	}
	askingFlags(command.Flags(), "the list", outputText, outputJSON)
	return command
}

// batches lists the batches of a fleet or of this machine.
func (a *asking) batches(ctx context.Context, std streams) error {
	found, left, err := a.summaries(ctx)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	if a.Output == outputJSON {
		return printJSON(std.out, struct {
			Batches []submit.Summary `json:"batches"`
			Unread  []unread         `json:"unread,omitempty"`
		}{orEmpty(found), left})
	}
	printUnread(std.err, left)
	if len(found) == 0 {
		say(std.out, "there are no batches\n")
		return nil
	}
	t := newTable(std.out, "BATCH", "SUBMITTED (UTC)", "IMAGES", "IN THE QUEUE", "STATE")
	for _, s := range found {
		t.row(s.Batch, moment(s.CreatedAt), strconv.Itoa(s.Total), strconv.Itoa(s.Waiting), summaryState(s))
	}
	return t.end()
}

// summaries are the batches of a fleet or of this machine.
func (a *asking) summaries(ctx context.Context) ([]submit.Summary, []unread, error) {
	if a.NATSURL != "" {
		conn, err := a.connectFleet(ctx, queue.RoleSubmitter)
		if err != nil {
			return nil, nil, err
		}
		defer conn.Close()
		found, err := submit.Summaries(ctx, conn)
		return found, nil, err
	}
	_, dirs, err := a.dirs()
	if err != nil {
		return nil, nil, err
	}
	var found []submit.Summary
	left, err := eachDir(ctx, dirs, func(where *place) error {
		here, err := submit.Summaries(ctx, where.conn)
		found = append(found, here...)
		return err
	})
	return found, left, err
}

func summaryState(s submit.Summary) string {
	state := "done, without its report"
	switch {
	case s.CreatedAt.IsZero():
		state = "events"
	case s.Finished:
		state = "finished"
	case !s.Published:
		state = "not submitted to its end"
	case s.Waiting > 0:
		state = "pending"
	}
	if s.Cancelled {
		state += ", cancelled"
	}
	return state
}
