package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

const statusLong = `status shows how far a batch has come: how its images ended, what is pending,
what is being tried again and why, and what was asked for again.

Without a batch it shows those that have not had their report yet. Of a fleet it
also shows the requests in the queue, the workers that are alive, the registries
that they leave alone for a while, and what an operator has paused.

Without --nats-url it looks into the state directories of the submissions that
sign in their own process. One that is running cannot be looked into.

Exit status: 0 shown, 1 an error, 2 a mistake in the settings.`

const statusExample = `  sign-submit status --nats-url nats://nats.example.org:4222
  sign-submit status nightly --nats-url nats://nats.example.org:4222
  sign-submit status --output json`

func statusCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "status [BATCH]", Short: "Show how far a batch, or all that goes on, has come",
		Long: statusLong, Example: statusExample,
		Args: batchOrNone,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readAsking(cmd.Flags(), std, outputText, outputJSON)
			switch {
			case err != nil:
				return err
			case len(args) > 0:
				return a.batchStatus(cmd.Context(), args[0], std)
			case a.NATSURL != "":
				return a.fleetStatus(cmd.Context(), std)
			}
			return a.machineStatus(cmd.Context(), std)
		},
	}
	askingFlags(command.Flags(), "the status", outputText, outputJSON)
	return command
}

// batchStatus shows one batch.
func (a *asking) batchStatus(ctx context.Context, id string, std streams) error {
	batch, where, err := a.find(ctx, id)
	if err != nil {
		return err
	}
	defer where.close()
	status, err := batch.Status(ctx)
	if err != nil {
		return a.explain(ctx, id, err)
	}
	if a.Output == outputJSON {
		return printJSON(std.out, status)
	}
	return printStatus(std.out, status)
}

// overview is what goes on in a fleet, or in the state directories of a machine.
type overview struct {
	Batches []submit.Status `json:"batches"`
	*fleetOverview
	Unread []unread `json:"unread,omitempty"`
}

type fleetOverview struct {
	Backlog queue.Backlog    `json:"backlog"`
	Workers []queue.Presence `json:"workers"`
	Pauses  []queue.Pause    `json:"pauses"`
}

// fleetStatus shows what goes on in a fleet.
func (a *asking) fleetStatus(ctx context.Context, std streams) error {
	conn, err := a.connectFleet(ctx, queue.RoleSubmitter)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer conn.Close()
	all := overview{fleetOverview: &fleetOverview{}}
	if all.Batches, err = unfinished(ctx, conn); err != nil {
		return interruptedOr(ctx, err)
	}
	if all.Backlog, err = conn.Backlog(ctx); err != nil {
		return interruptedOr(ctx, err)
	}
	if all.Workers, err = conn.Present(ctx); err != nil {
		return interruptedOr(ctx, err)
	}
	if all.Pauses, err = conn.Pauses(ctx); err != nil {
		return interruptedOr(ctx, err)
	}
	if a.Output == outputJSON {
		all.Workers, all.Pauses = orEmpty(all.Workers), orEmpty(all.Pauses)
		return printJSON(std.out, all)
	}
	if err := printStatuses(std.out, all.Batches); err != nil {
		return err
	}
	return printFleet(std.out, *all.fleetOverview)
}

// machineStatus shows what was begun on this machine without a fleet.
func (a *asking) machineStatus(ctx context.Context, std streams) error {
	_, dirs, err := a.dirs()
	if err != nil {
		return err
	}
	all := overview{Batches: []submit.Status{}}
	all.Unread, err = eachDir(ctx, slices.DeleteFunc(dirs, isFinished), func(where *place) error {
		found, err := unfinished(ctx, where.conn)
		all.Batches = append(all.Batches, found...)
		return err
	})
	if err != nil {
		return interruptedOr(ctx, err)
	}
	if a.Output == outputJSON {
		return printJSON(std.out, all)
	}
	if err := printStatuses(std.out, all.Batches); err != nil {
		return err
	}
	printUnread(std.err, all.Unread)
	return nil
}

// unfinished are the batches that have not had their report, oldest first.
func unfinished(ctx context.Context, conn *queue.Conn) ([]submit.Status, error) {
	summaries, err := submit.Summaries(ctx, conn)
	if err != nil {
		return nil, err
	}
	found := []submit.Status{}
	for _, summary := range summaries {
		if summary.Finished {
			continue
		}
		batch, err := submit.Find(ctx, conn, summary.Batch)
		if errors.Is(err, submit.ErrNoBatch) {
			continue // its time was over just now
		}
		if err != nil {
			return nil, err
		}
		status, err := batch.Status(ctx)
		if err != nil {
			return nil, err
		}
		found = append(found, status)
	}
	return found, nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func printUnread(w io.Writer, left []unread) {
	for _, u := range left {
		say(w, "not looked into: %s\n", u.Reason)
	}
}

// printStatuses shows batches, a line each.
func printStatuses(w io.Writer, statuses []submit.Status) error {
	if len(statuses) == 0 {
		say(w, "no batch is under way\n")
		return nil
	}
	t := newTable(w, "BATCH", "SUBMITTED (UTC)", "IMAGES", "SIGNED", "ALREADY", "SKIPPED", "FAILED", "PENDING", "STATE")
	for _, s := range statuses {
		t.row(s.Batch, moment(s.CreatedAt), images(s), strconv.Itoa(s.Signed), strconv.Itoa(s.AlreadySigned),
			strconv.Itoa(s.Skipped), strconv.Itoa(s.Failed()), strconv.Itoa(s.Pending), stateOf(s))
	}
	return t.end()
}

// images is how many there are, as far as that is known.
func images(s submit.Status) string {
	switch {
	case !s.Published:
		return strconv.Itoa(s.Accepted) + " so far"
	case s.CreatedAt.IsZero(): // events have no list
		return strconv.Itoa(s.Done() + s.Pending)
	}
	return strconv.Itoa(s.Total)
}

// stateOf is what a batch is doing, in a word or two.
func stateOf(s submit.Status) string {
	var words []string
	switch {
	case s.CreatedAt.IsZero():
		words = append(words, "events")
	case !s.Published:
		words = append(words, "not submitted to its end")
	case s.Finished:
		words = append(words, "finished")
	case s.Pending == 0:
		words = append(words, "done, without its report")
	default:
		words = append(words, "pending")
	}
	if s.Cancelled != nil {
		words = append(words, "cancelled")
	}
	if s.RetryingTotal > 0 {
		words = append(words, fmt.Sprintf("%d tried again", s.RetryingTotal))
	}
	return strings.Join(words, ", ")
}
