package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/signfleet/signfleet/internal/queue"
)

const pauseLong = `pause holds back the requests of a lane (bulk or event) or of a registry host
until sign-submit resume. What workers have in their hands they finish; the rest
waits, and neither loses attempts nor time by it.

It needs the credentials of the operator.

Exit status: 0 paused, 1 an error, 2 a mistake in the settings.`

const pauseExample = `  sign-submit pause bulk --nats-url nats://nats.example.org:4222
  sign-submit pause registry.example.org --nats-url nats://nats.example.org:4222`

func pauseCommand(std streams) *cobra.Command {
	return steerCommand(std, steering{
		use: "pause bulk|event|HOST", short: "Hold back a lane or a registry of a fleet (operator)",
		long: pauseLong, example: pauseExample, run: pause,
	})
}

const resumeLong = `resume lets the requests of a lane (bulk or event) or of a registry host go on
that were held back by sign-submit pause.

It needs the credentials of the operator.

Exit status: 0 not paused any more, 1 an error, 2 a mistake in the settings.`

const resumeExample = `  sign-submit resume bulk --nats-url nats://nats.example.org:4222
  sign-submit resume registry.example.org --nats-url nats://nats.example.org:4222`

func resumeCommand(std streams) *cobra.Command {
	return steerCommand(std, steering{
		use: "resume bulk|event|HOST", short: "Let a paused lane or registry go on (operator)",
		long: resumeLong, example: resumeExample, run: resume,
	})
}

// steering is what pause and resume differ in.
type steering struct {
	use, short, long, example string
	run                       func(ctx context.Context, conn *queue.Conn, target string) (steered, error)
}

// steered is what became of a lane or a host.
type steered struct {
	Target string `json:"target"`
	Paused bool   `json:"paused"`
	// Changed is false where it was so before.
	Changed bool `json:"changed"`
}

func steerCommand(std streams, s steering) *cobra.Command {
	command := &cobra.Command{
		Use: s.use, Short: s.short, Long: s.long, Example: s.example,
		Args: oneTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readAsking(cmd.Flags(), std, outputText, outputJSON)
			if err != nil {
				return err
			}
			if err := a.needFleet(cmd.Name(), "a submission that signs in its own process is ended with Ctrl-C and goes on when it is run again"); err != nil {
				return err
			}
			return a.steer(cmd, args[0], s.run, std)
		},
	}
	fleetFlags(command.Flags(), "what was done", outputText, outputJSON)
	return command
}

// steer changes what a lane or a host may do, and says so.
func (a *asking) steer(cmd *cobra.Command, target string, run func(context.Context, *queue.Conn, string) (steered, error), std streams) error {
	ctx := cmd.Context()
	conn, err := a.connectFleet(ctx, queue.RoleOperator)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer conn.Close()
	done, err := run(ctx, conn, target)
	if err != nil {
		return interruptedOr(ctx, forOperators(cmd.Name(), err))
	}
	if a.Output == outputJSON {
		return printJSON(std.out, done)
	}
	state, before := "not paused", "any more"
	if done.Paused {
		state, before = "paused", "now"
	}
	if !done.Changed {
		before = "as before"
	}
	say(std.out, "%s: %s %s\n", target, state, before)
	return nil
}

// forOperators says who may do what this user may not.
func forOperators(command string, err error) error {
	if denied := new(queue.DeniedError); errors.As(err, &denied) {
		return fmt.Errorf("%s needs the credentials of the operator: %w", command, err)
	}
	return err
}

func pause(ctx context.Context, conn *queue.Conn, target string) (steered, error) {
	_, was, err := conn.Paused(ctx, target)
	if err != nil && !errors.Is(err, queue.ErrUnreadable) {
		return steered{}, err
	}
	if !was {
		err = conn.Pause(ctx, queue.Pause{Target: target, By: whoAmI(), At: time.Now().UTC()})
	}
	return steered{Target: target, Paused: true, Changed: !was}, err
}

func resume(ctx context.Context, conn *queue.Conn, target string) (steered, error) {
	was, err := conn.Resume(ctx, target)
	return steered{Target: target, Changed: was}, err
}

// whoAmI names the user and the machine, for the other operators.
func whoAmI() string {
	host, err := os.Hostname()
	if err != nil {
		host = "a machine without a name"
	}
	if u, err := user.Current(); err == nil {
		return u.Username + "@" + host
	}
	return host
}

// hostPattern is a registry as references begin with it: a name with a dot or a
// port, an address, or localhost.
var hostPattern = regexp.MustCompile(`^(localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$|^[A-Za-z0-9-]+:[0-9]{1,5}$`)

// oneTarget takes a lane or the host of a registry.
func oneTarget(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return fmt.Errorf("%s needs a lane (bulk or event) or the host of a registry: sign-submit %s", cmd.Name(), cmd.Use)
	case len(args) > 1:
		return fmt.Errorf("%s takes one lane or host, and %q is one too many", cmd.Name(), args[1])
	case args[0] == queue.LaneBulk || args[0] == queue.LaneEvent || hostPattern.MatchString(args[0]):
		return nil
	}
	return fmt.Errorf("%q is neither a lane (bulk or event) nor the host of a registry, as registry.example.org or registry.example.org:5000", args[0])
}
