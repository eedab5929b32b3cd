package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// process is a child that outlives the call that started it.
type process struct {
	cmd  *exec.Cmd
	logs *logBuffer
	done chan struct{} // closed once the child is reaped
}

// launch starts a program whose output goes to logs.
func launch(ctx context.Context, path string, args, env []string, logs *logBuffer) (*process, error) {
	return launchCommand(ctx, Command{Path: path, Args: args, Env: env}, logs)
}

// launchCommand starts a program. Its stop ends it, not the context: a child
// outlives the context of its start.
func launchCommand(ctx context.Context, c Command, logs *logBuffer) (*process, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.Path, c.Args...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.Stdout = io.Writer(logs)
	if c.Logs != nil {
		cmd.Stdout = io.MultiWriter(logs, c.Logs)
	}
	cmd.Stderr = cmd.Stdout
	tieToParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	p := &process{cmd: cmd, logs: logs, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // a killed child is no error here, and its logs tell the rest
		close(p.done)
	}()
	return p, nil
}

// stop asks the child to end, and kills it if it has not after 10 seconds.
func (p *process) stop() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(10 * time.Second):
		return p.kill()
	}
}

// kill ends the child as a power cut would.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// await returns what the last group of the pattern, or else the whole of it,
// matched in the logs.
func (p *process) await(ctx context.Context, pattern *regexp.Regexp) (string, error) {
	for {
		changed := p.logs.changed()
		if m := pattern.FindStringSubmatch(p.logs.String()); m != nil {
			return m[len(m)-1], nil
		}
		select {
		case <-changed:
		case <-p.done:
			return "", fmt.Errorf("%s ended at once:\n%s", p.cmd.Path, p.logs)
		case <-ctx.Done():
			return "", fmt.Errorf("%s is not ready: %w\n%s", p.cmd.Path, context.Cause(ctx), p.logs)
		}
	}
}

// maxLog bounds what is kept of a child's output; a failure is at its end.
const maxLog = 256 << 10

// logBuffer keeps the last output of a child.
type logBuffer struct {
	mu    sync.Mutex
	data  []byte
	waits chan struct{}
}

// Write implements io.Writer.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	if len(b.data) > 2*maxLog {
		b.data = append([]byte(nil), b.data[len(b.data)-maxLog:]...)
	}
	if b.waits != nil {
		close(b.waits)
		b.waits = nil
	}
	return len(p), nil
}

// String returns what is kept.
func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}

// reset forgets what is kept.
func (b *logBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = nil
}

// changed returns a channel that is closed at the next write.
func (b *logBuffer) changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waits == nil {
		b.waits = make(chan struct{})
	}
	return b.waits
}
