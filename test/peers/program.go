package peers

import (
	"context"
	"io"
	"os"
	"regexp"
	"time"
)

// Command is a program to start, with all that it sees of this machine.
type Command struct {
	Path string
	Args []string
	Env  []string
	Dir  string
	// Logs, when set, gets all output beside what [Program.Output] keeps.
	Logs io.Writer
}

// Program is a running program that dies with the process that started it.
type Program struct {
	process *process
}

// StartProgram starts a program. It outlives ctx: Kill it, or wait for Done.
func StartProgram(ctx context.Context, c Command) (*Program, error) {
	p, err := launchCommand(ctx, c, &logBuffer{})
	if err != nil {
		return nil, err
	}
	return &Program{process: p}, nil
}

// PID is the number of its process.
func (p *Program) PID() int { return p.process.cmd.Process.Pid }

// Done is closed once the program has ended.
func (p *Program) Done() <-chan struct{} { return p.process.done }

// Ended reports whether the program has ended.
func (p *Program) Ended() bool { return !p.process.running() }

// ExitCode is how the program ended, once it has; -1 for an end by a signal.
func (p *Program) ExitCode() int { return p.process.cmd.ProcessState.ExitCode() }

// Signal sends a signal; one to a program that has ended is lost.
func (p *Program) Signal(s os.Signal) error { return p.process.signal(s) }

// Kill ends the program with SIGKILL and waits until it is gone.
func (p *Program) Kill() error { return p.process.kill() }

// Wait waits until the program has ended and returns its exit code.
func (p *Program) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.process.done:
		return p.ExitCode(), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Output returns the last of what the program wrote to either output.
func (p *Program) Output() string { return p.process.logs.String() }

// Says waits until the program has written what a pattern matches.
func (p *Program) Says(ctx context.Context, pattern *regexp.Regexp, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := p.process.await(ctx, pattern)
	return err
}
