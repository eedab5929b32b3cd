package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/worker"
)

const retryLong = `retry asks once more, with a fresh count of attempts, for the images of a batch
that failed or were cancelled; with --class only for those that failed that way.
--all does so for all batches there are records of, but for cancelled ones.

Of a fleet it returns at once: sign-submit wait BATCH follows what becomes of it.

Without --nats-url it looks into the state directories of the submissions that
sign in their own process, and signs in this one, to the end. The keys, and
all that decides what the signatures are, must be those of the batch.

Exit status: 0 asked for, and without --nats-url signed; 1 an error, or without
--nats-url some failed again; 2 a mistake in the settings; 130 interrupted.`

const retryExample = `  sign-submit retry nightly --nats-url nats://nats.example.org:4222
  sign-submit retry --all --class network --nats-url nats://nats.example.org:4222
  sign-submit retry nightly --sigstore-key cosign.key`

// classes are those that a retry can be asked for by.
var classes = []string{
	worker.InvalidRequest, worker.NotFound, worker.DigestMismatch, worker.Unauthorized, worker.Denied, worker.Immutable,
	worker.UnsupportedMediaType, worker.PolicyRejected, worker.Poison,
	worker.Timeout, worker.RateLimited, worker.RegistryUnavailable, worker.Network, worker.KeyUnavailable, worker.Conflict, worker.Internal,
}

// retrySettings are those of retry, and of signing for when it signs.
type retrySettings struct {
	Signing config.Signing `mapstructure:",squash"`
	All     bool           `mapstructure:"all"`
	Class   string         `mapstructure:"class"`

	asking *asking
	source *config.Source
}

func retryCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "retry BATCH|--all", Short: "Ask once more for the images that failed", Long: retryLong, Example: retryExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if all, err := cmd.Flags().GetBool("all"); err == nil && all {
				if len(args) > 0 {
					return errors.New("retry takes a batch or --all, not both")
				}
				return nil
			}
			return oneBatch(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := readRetry(cmd.Flags(), std)
			switch {
			case err != nil:
				return err
			case r.asking.NATSURL != "":
				return r.askFleet(cmd.Context(), args, std)
			}
			return r.signAgain(cmd.Context(), args, std)
		},
	}
	retryFlags(command.Flags())
	return command
}

func retryFlags(flags *pflag.FlagSet) {
	flags.Bool("all", false, "all batches, but for cancelled ones")
	flags.String("class", "", "only what failed with this `class`")
	stateDirFlag(flags)
	outputFlag(flags, "what was done", outputText, outputJSON)
	signing := pflag.NewFlagSet("signing", pflag.ContinueOnError)
	config.SigningFlags(signing, station.Defaults(defaultMaxWait))
	signing.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "timeout" { // each request has its own
			flags.AddFlag(flag)
		}
	})
}

func readRetry(flags *pflag.FlagSet, std streams) (*retrySettings, error) {
	r := &retrySettings{}
	var err error
	if r.source, err = readSource(flags, r); err != nil {
		return nil, err
	}
	if r.asking, err = readAsking(flags, std, outputText, outputJSON); err != nil {
		return nil, err
	}
	if r.Class != "" && !slices.Contains(classes, r.Class) {
		return nil, usage("class: %q is none of %s", r.Class, strings.Join(classes, ", "))
	}
	if r.asking.NATSURL == "" {
		return r, nil
	}
	if err := refuseWorkerOnly(r.source); err != nil {
		return nil, program.UsageError{Err: err}
	}
	return r, nil
}

// askedAgain is the answer of retry.
type askedAgain struct {
	Retried []submit.Retried `json:"retried"`
	// Reports say how it ended, where this process has signed.
	Reports []ending `json:"reports,omitempty"`
	Unread  []unread `json:"unread,omitempty"`
}

// askFleet asks a fleet once more for what failed.
func (r *retrySettings) askFleet(ctx context.Context, ids []string, std streams) error {
	conn, err := r.asking.connectFleet(ctx, queue.RoleSubmitter)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer conn.Close()
	if r.All {
		if ids, err = retriable(ctx, conn, std); err != nil {
			return interruptedOr(ctx, err)
		}
	}
	answer := askedAgain{Retried: []submit.Retried{}}
	for _, id := range ids {
		retried, askErr := r.ask(ctx, conn, id)
		if askErr != nil {
			err = askErr
			break // what was asked for until then is told all the same
		}
		if !r.All || something(retried) {
			answer.Retried = append(answer.Retried, retried)
		}
	}
	if err != nil && len(answer.Retried) == 0 {
		return err
	}
	return errors.Join(r.print(answer, std), err)
}

// ask asks a fleet once more for what failed of one batch.
func (r *retrySettings) ask(ctx context.Context, conn *queue.Conn, id string) (submit.Retried, error) {
	batch, err := submit.Find(ctx, conn, id)
	if err != nil {
		return submit.Retried{}, r.asking.explain(ctx, id, err)
	}
	retried, err := batch.Retry(ctx, r.Class)
	return retried, r.asking.explain(ctx, id, err)
}

// something reports whether a retry had anything to do.
func something(r submit.Retried) bool { return r.Requests+r.Again+r.Left > 0 }

// print says what was asked for.
func (r *retrySettings) print(answer askedAgain, std streams) error {
	if r.asking.Output == outputJSON {
		return printJSON(std.out, answer)
	}
	for _, retried := range answer.Retried {
		printRetried(std.out, retried)
	}
	if len(answer.Retried) == 0 {
		say(std.out, "there is nothing to try again\n")
	}
	return nil
}

// printRetried says what a batch was asked for again.
func printRetried(w io.Writer, r submit.Retried) {
	say(w, "batch %s: %d images are tried again", r.Batch, r.Requests)
	if r.Again > 0 {
		say(w, ", and %d that an earlier retry did not come to", r.Again)
	}
	if r.Left > 0 {
		say(w, "; %d cannot be: what was asked for them could not be read, submit their lines anew", r.Left)
	}
	say(w, "\n")
}

// retriable are the batches that --all stands for: what somebody has cancelled
// begins again only by its name.
func retriable(ctx context.Context, conn *queue.Conn, std streams) ([]string, error) {
	summaries, err := submit.Summaries(ctx, conn)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range summaries {
		if s.Cancelled {
			say(std.err, "batch %s was cancelled and is left out: give its name to try it again\n", s.Batch)
			continue
		}
		ids = append(ids, s.Batch)
	}
	return ids, nil
}
