package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/embedded"
	"github.com/signfleet/signfleet/internal/submit"
)

// place is where batches are: the NATS server of a fleet, or the state directory
// of a submission that signs in its own process.
type place struct {
	conn   *queue.Conn
	dir    string // "" for a fleet
	server *embedded.Server
}

func (p *place) close() {
	p.conn.Close()
	if p.server != nil {
		_ = p.server.Stop() // the process ends, and with it the lock
	}
}

// connectFleet connects to the NATS server of a fleet.
func (a *asking) connectFleet(ctx context.Context, role queue.Role) (*queue.Conn, error) {
	return connect(ctx, a.NATS.Connect(a.NATSURL, queue.Options{Role: role}), a.log)
}

// connect connects to the NATS server of a fleet, whose losses are logged.
func connect(ctx context.Context, o queue.Options, log *zap.Logger) (*queue.Conn, error) {
	o.Name = "sign-submit"
	o.OnDisconnect = func(err error) { log.Warn("lost the NATS server, connecting again", zap.Error(err)) }
	o.OnReconnect = func(server string) { log.Info("connected to NATS again", zap.String("server", server)) }
	if err := o.Validate(); err != nil {
		return nil, program.UsageError{Err: err}
	}
	conn, err := queue.Connect(ctx, o)
	if bad := new(queue.FileError); errors.As(err, &bad) {
		return nil, program.UsageError{Err: err}
	}
	return conn, err
}

// openDir starts the server of a state directory. The error is an
// *embedded.BusyError while its submission is running.
func openDir(ctx context.Context, dir string) (*place, error) {
	server, err := embedded.Start(dir)
	if err != nil {
		return nil, err
	}
	conn, err := server.Connect(ctx, queue.Options{Name: "sign-submit"})
	if err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return &place{conn: conn, dir: dir, server: server}, nil
}

// find finds a batch where it is. The place must be closed.
func (a *asking) find(ctx context.Context, id string) (*submit.Batch, *place, error) {
	where, err := a.placeOf(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	batch, err := submit.Find(ctx, where.conn, id)
	if err != nil {
		where.close()
		return nil, nil, a.explain(ctx, id, err)
	}
	return batch, where, nil
}

// placeOf is where a batch is to be looked for.
func (a *asking) placeOf(ctx context.Context, id string) (*place, error) {
	if a.NATSURL != "" {
		conn, err := a.connectFleet(ctx, queue.RoleSubmitter)
		if err != nil {
			return nil, interruptedOr(ctx, err)
		}
		return &place{conn: conn}, nil
	}
	root, dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	var unknown []string // directories that do not say what they hold
	for _, dir := range dirs {
		switch ids, err := notedBatches(dir); {
		case err == nil && slices.Contains(ids, id):
			where, err := openDir(ctx, dir)
			if err != nil {
				return nil, fmt.Errorf("batch %s: %w", id, interruptedOr(ctx, err))
			}
			return where, nil
		case errors.Is(err, fs.ErrNotExist):
			unknown = append(unknown, dir)
		case err != nil:
			return nil, fmt.Errorf("look for batch %s: %w", id, err)
		}
	}
	return searchDirs(ctx, unknown, id, root)
}

// dirs are the state directories of this machine, and where they are.
func (a *asking) dirs() (root string, dirs []string, err error) {
	if root, err = stateRoot(a.StateDir, os.Getenv); err != nil {
		return "", nil, program.UsageError{Err: err}
	}
	dirs, err = stateDirs(root)
	return root, dirs, err
}

// searchDirs looks for a batch in directories that have no note of their batches.
func searchDirs(ctx context.Context, dirs []string, id, root string) (*place, error) {
	var unseen []string
	for _, dir := range dirs {
		where, err := openDir(ctx, dir)
		if err != nil {
			unseen = append(unseen, err.Error())
			continue
		}
		if ids, err := where.conn.Batches(ctx); err == nil && slices.Contains(ids, id) {
			return where, nil
		}
		where.close()
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	err := fmt.Errorf("there is no batch %s below %s: see sign-submit batches, or name the server of a fleet with --nats-url", id, root)
	if len(unseen) > 0 {
		err = fmt.Errorf("%w; not looked into: %s", err, strings.Join(unseen, "; "))
	}
	return nil, err
}

// unread is a state directory that could not be looked into.
type unread struct {
	Dir string `json:"dir"`
	// PID is the process that is using it, if that is why.
	PID    int    `json:"pid,omitempty"`
	Reason string `json:"reason"`
}

// eachDir calls visit for state directories, one after the other, and returns
// those that could not be looked into.
func eachDir(ctx context.Context, dirs []string, visit func(*place) error) ([]unread, error) {
	var left []unread
	for _, dir := range dirs {
		where, err := openDir(ctx, dir)
		switch busy := new(embedded.BusyError); {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &busy):
			left = append(left, unread{Dir: dir, PID: busy.PID, Reason: err.Error()})
			continue
		case err != nil:
			left = append(left, unread{Dir: dir, Reason: err.Error()})
			continue
		}
		err = visit(where)
		where.close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return left, nil
}

// needFleet is for commands that have nothing to do without a fleet.
func (a *asking) needFleet(command, instead string) error {
	if a.NATSURL != "" {
		return nil
	}
	return usage("%s needs the NATS server of a fleet: name it with --nats-url; %s", command, instead)
}

// explain adds to an error what to do about it. Nobody is told of an error that
// an interruption brought about.
func (a *asking) explain(ctx context.Context, id string, err error) error {
	stalled := new(submit.StalledError)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Canceled
	case errors.Is(err, submit.ErrNoBatch):
		return a.noBatch(id)
	case errors.As(err, &stalled):
		return fmt.Errorf("%w; go on with its list: %s", err, a.commandToGoOn(id))
	}
	return err
}

func (a *asking) noBatch(id string) error {
	if a.NATSURL == "" {
		return fmt.Errorf("there is no batch %s on this machine: see sign-submit batches", id)
	}
	return fmt.Errorf("there is no batch %s on %s: see sign-submit batches", id, a.fleet())
}

// fleet names the NATS server, for people.
func (a *asking) fleet() string { return queue.RedactURL(a.NATSURL) }

func (a *asking) commandToGoOn(id string) string {
	if a.NATSURL == "" {
		return "run the command that submitted it again"
	}
	return "sign-submit --file LIST " + a.fleetFlags() + " --resume " + id
}

// fleetFlags are the flags that lead to the same fleet, but for passwords.
func (a *asking) fleetFlags() string {
	words := []string{"--nats-url", shellWord(a.fleet())}
	if a.source != nil {
		a.source.VisitGiven(func(name, value string) {
			if config.IsNATS(name) && name != "nats-url" {
				words = append(words, "--"+name, shellWord(value))
			}
		})
	}
	return strings.Join(words, " ")
}
