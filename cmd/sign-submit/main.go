// Command sign-submit signs the images of a list: by a fleet of sign-workers
// behind a NATS server, or, without one, all by itself.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// How a submission ends that is not simply done; the user has been told.
var (
	errFailures    = program.Ended{Status: program.ExitFailed}      // the failed list is not empty
	errInterrupted = program.Ended{Status: program.ExitInterrupted} // by a signal
)

const long = `sign-submit signs every image of a list in its registry with a Sigstore key.

Without --nats-url it needs nothing else: it signs in this process, remembers
in its state directory what was done, and goes on there when it was interrupted
and is started again with the same list and options.

With --nats-url it hands the list to the sign-workers of that NATS server and
follows what becomes of it; with --detach it leaves that to sign-submit wait.
Keys, policy and access to registries are then those of the workers.

The list has one image a line: registry/project/name:tag, with or without its
parts, or a digest. Lines that begin with # or // are comments. Of a line of the
mirror format (source destination tag) the destination is signed.

An image gets a signature under its .sig tag by default, a Sigstore bundle with
--format referrer, or both with --format tag,referrer; --sigstore-key may name
several keys. sign-submit validate tells whether a list is signed, inspect shows
the signatures of one image, and generate-key makes a key.

Lines that could not be signed are written to the failed list, ready to be used
with --file again, and with the reasons to a .json file beside it.

Every flag is also an environment variable (--nats-url is SIGNFLEET_NATS_URL)
and a key of the configuration file (nats-url).

Exit status: 0 all images signed or skipped, 1 some failed, 2 a mistake in the
settings, 130 interrupted.`

const example = `  sign-submit --file images.txt --sigstore-key cosign.key --arch amd64,arm64
  sign-submit --file images.txt --sigstore-key cosign.key --registry registry.example.org --project mirror
  sign-submit --file images.txt --sigstore-key cosign.key --format tag,referrer
  sign-submit validate --file images.txt --sigstore-pubkey cosign.pub
  sign-submit --file images.txt --nats-url nats://nats.example.org:4222
  sign-submit --file images.txt --nats-url nats://nats.example.org:4222 --batch nightly --detach`

// streams are where the program reads and writes.
type streams struct {
	in       *os.File
	out, err io.Writer
}

// execute is the program without its globals.
func execute(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	std := streams{in: stdin, out: stdout, err: stderr}
	command := &cobra.Command{
		Use:                        "sign-submit --file LIST --sigstore-key FILE | --nats-url URL",
		Short:                      "Sign the container images of a list",
		Long:                       long,
		Example:                    example,
		Version:                    station.Version(),
		Args:                       noArguments,
		SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings(cmd.Context(), cmd.Flags(), std)
			if err != nil {
				return err
			}
			defer s.cleanup() //nolint:errcheck // a file without a name, and at its end
			return traced(cmd.Context(), s, func(ctx context.Context) error {
				if s.NATSURL != "" {
					return submitToFleet(ctx, s, std)
				}
				return signHere(ctx, s, std)
			})
		},
	}
	defineFlags(command.Flags())
	command.AddCommand(commands(std)...)
	return program.Run(command, args, stdout, stderr)
}

func commands(std streams) []*cobra.Command {
	return []*cobra.Command{
		statusCommand(std), waitCommand(std), failedCommand(std), resultsCommand(std), retryCommand(std),
		cancelCommand(std), pauseCommand(std), resumeCommand(std), batchesCommand(std),
		validateCommand(std), inspectCommand(std), generateKeyCommand(std),
	}
}

// say writes to the user.
func say(w io.Writer, format string, args ...any) { program.Say(w, format, args...) }
