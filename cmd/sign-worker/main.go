// Command sign-worker is the daemon of a fleet: it takes requests from a NATS
// JetStream server and signs the images they name.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/telemetry"
	"github.com/signfleet/signfleet/internal/worker"
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const long = `sign-worker takes requests to sign container images from a NATS JetStream server
and signs each image in its registry with Sigstore keys. Start as many as you
like, on as many machines as you like: each request is signed by one of them,
and by another if that one dies.

A first SIGTERM or SIGINT stops taking requests, finishes the images in work
within --shutdown-grace and gives the rest back; a second one ends at once. On
SIGHUP, and when one of their files changes, keys, policy, rules and log level are
read anew.

Every flag is also an environment variable (--nats-url is SIGNFLEET_NATS_URL)
and a key of the configuration file (nats-url).

The streams on the server are made by sign-worker setup, or by the first worker
where its credentials allow it.

Exit status: 0 after a drain, 1 after a failure, 2 for a mistake in the settings.`

// execute is the program without its globals.
func execute(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	command := &cobra.Command{
		Use:     "sign-worker --nats-url URL --sigstore-key FILE",
		Short:   "Sign the container images that a NATS JetStream queue asks for",
		Long:    long,
		Version: station.Version(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), cmd.Flags(), stdin, stderr)
		},
	}
	defineFlags(command.Flags())
	command.AddCommand(setupCommand(stdout, stderr), configCommand(stdout), healthCommand(stdout))
	return program.Run(command, args, stdout, stderr)
}

// programName begins the name of the configuration file.
const programName = "sign-worker"

// settings are those of a station and of its place in the queue.
type settings struct {
	config.Signing   `mapstructure:",squash"`
	config.Queue     `mapstructure:",squash"`
	config.Telemetry `mapstructure:",squash"`
	EventJobs        int           `mapstructure:"event-jobs"`
	Heartbeat        time.Duration `mapstructure:"heartbeat"`
	LockTTL          time.Duration `mapstructure:"lock-ttl"`
	ReloadInterval   time.Duration `mapstructure:"reload-interval"`

	source *config.Source
	log    *zap.Logger
	level  zap.AtomicLevel // of log
	queue  queue.Options
}

func defineFlags(flags *pflag.FlagSet) {
	d := worker.DefaultOptions()
	config.SigningFlags(flags, station.Defaults(d.MaxWait))
	config.QueueFlags(flags)
	config.TelemetryFlags(flags)
	flags.Int("event-jobs", -1, "images of the event lane signed at once, beside --jobs; -1 means a quarter of --jobs")
	flags.Duration("heartbeat", d.Heartbeat, "how often the server is told that an image is in work; at most half of the ack wait")
	flags.Duration("lock-ttl", 60*time.Second, "how long the lock of a worker that died delays the others")
	flags.Duration("reload-interval", 10*time.Second, "how often a change of the files is looked for that settings come from: keys, policy, rules and what signatures are then change without a restart, as they do on SIGHUP; 0 leaves it to SIGHUP")
}

// readSettings reads and checks what can be checked without a server.
func readSettings(flags *pflag.FlagSet, stderr io.Writer) (*settings, error) {
	file, err := flags.GetString("config")
	if err != nil {
		return nil, err
	}
	s, err := parseSettings(flags, file)
	if err != nil {
		return nil, program.UsageError{Err: err}
	}
	json, err := telemetry.ParseFormat(s.LogFormat, stderr)
	if err != nil {
		return nil, program.UsageError{Err: err}
	}
	s.level = zap.NewAtomicLevelAt(s.logLevel())
	s.log = telemetry.NewLogger(stderr, telemetry.LogOptions{Level: s.level, JSON: json, Sampled: true, Whole: worker.ImageLogger})
	if s.source.File != "" {
		s.log.Info("configuration read", zap.String("file", s.source.File))
	}
	if s.queue, err = s.queueOptions(); err != nil {
		return nil, program.UsageError{Err: err}
	}
	return s, nil
}

// parseSettings reads the settings, and refuses those that no server and no file
// that they name could make right.
func parseSettings(flags *pflag.FlagSet, file string) (*settings, error) {
	source, err := config.Read(flags, programName, file, config.RulesKey)
	if err != nil {
		return nil, err
	}
	s := &settings{source: source}
	if err := source.Into(s); err != nil {
		return nil, err
	}
	if err := s.checkOwn(); err != nil {
		return nil, err
	}
	return s, s.limits().Validate()
}

// logLevel is the least that is logged.
func (s *settings) logLevel() zapcore.Level {
	if s.Debug {
		return zap.DebugLevel
	}
	level, _ := telemetry.ParseLevel(s.LogLevel) // it was checked
	return level
}

// checkOwn names a setting of this program's own that cannot be obeyed.
func (s *settings) checkOwn() error {
	if _, err := telemetry.ParseLevel(s.LogLevel); err != nil {
		return err
	}
	if _, err := telemetry.ParseFormat(s.LogFormat, io.Discard); err != nil {
		return err
	}
	if err := s.Telemetry.Validate(); err != nil {
		return err
	}
	switch {
	case s.LockTTL == 0:
		return errors.New("lock-ttl: 0 is too little") // the room would take it for its default
	case s.ReloadInterval < 0:
		return fmt.Errorf("reload-interval: %s is no interval; 0 looks at no file", s.ReloadInterval)
	}
	return nil
}

// queueOptions are those of the connection, without a name.
func (s *settings) queueOptions() (queue.Options, error) {
	o, err := queueOptions(s.Queue, s.NATS, s.NATSURL)
	if err != nil {
		return o, err
	}
	o.Role, o.LockTTL = queue.RoleWorker, s.LockTTL
	o.OnDisconnect = func(err error) { s.log.Warn("lost the NATS server, connecting again", zap.Error(err)) }
	o.OnReconnect = func(server string) { s.log.Info("connected to NATS again", zap.String("server", server)) }
	return o, o.Validate()
}

// queueOptions are what the streams of the fleet at url are to be.
func queueOptions(q config.Queue, n config.NATS, url string) (queue.Options, error) {
	if url == "" {
		return queue.Options{}, errors.New("no NATS server: name one with --nats-url")
	}
	o, err := q.Options()
	if err != nil {
		return o, err
	}
	o = n.Connect(url, o)
	return o, o.Validate()
}

// limits are those of the worker loop, under a new name each time.
func (s *settings) limits() worker.Options {
	o := station.Limits(s.Signing, config.WorkerName())
	o.Heartbeat, o.Program = s.Heartbeat, station.Version()
	if o.EventJobs = s.EventJobs; s.EventJobs < 0 {
		o.EventJobs = max(1, s.Jobs/4)
	}
	return o
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, flags *pflag.FlagSet, stdin *os.File, stderr io.Writer) error {
	s, err := readSettings(flags, stderr)
	if err != nil {
		return err
	}
	reloads := newReloader(flags, s)
	defer reloads.stop()
	limits := s.limits()
	reports, err := telemetry.Start(ctx, telemetry.Options{
		Service: programName, Version: station.Version(), Instance: limits.Name, Prometheus: s.Listen != "", Log: s.log,
	})
	if err != nil {
		return program.UsageError{Err: err}
	}
	defer sendRest(ctx, reports, s.log)
	st, err := station.New(ctx, station.Config{
		Settings: s.Signing, Source: s.source, Stdin: stdin, Prompt: stderr, Log: s.log, Telemetry: reports,
	})
	if err != nil {
		return station.Mistake(err)
	}
	defer st.Close()
	s.queue.Meters, s.queue.Tracers = reports.Meters, reports.Spans()
	conn, err := connect(ctx, s, limits.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	w, err := st.Worker(conn, limits, station.Locks(conn.Locker(limits.Name).Lock))
	if err != nil {
		return program.UsageError{Err: err}
	}
	health, err := listen(ctx, s, reports, st, conn)
	if err != nil {
		return program.UsageError{Err: err}
	}
	defer health.Close(ctx)
	s.log.Info("serving", zap.String("worker", limits.Name), zap.Strings("keys", st.Fingerprints()),
		zap.Int("jobs", limits.Jobs), zap.Int("event_jobs", limits.EventJobs), zap.Int("partitions", conn.Partitions()), zap.String("version", station.Version()))
	stopReloading, err := reloads.start(ctx, s, st, reports)
	if err != nil {
		return err
	}
	defer stopReloading()
	return run(ctx, w, limits.ShutdownGrace, s.log)
}

// connect connects to the queue. It makes the streams where they are missing and
// the server lets it, and leaves those that are there as they are.
func connect(ctx context.Context, s *settings, name string) (*queue.Conn, error) {
	s.queue.Name = name
	conn, err := open(ctx, s.queue)
	if err != nil {
		return nil, err
	}
	if err := conn.Ensure(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// open connects to the queue. A file that cannot be used is a mistake in the settings.
func open(ctx context.Context, o queue.Options) (*queue.Conn, error) {
	conn, err := queue.Connect(ctx, o)
	if bad := new(queue.FileError); errors.As(err, &bad) {
		return nil, program.UsageError{Err: err}
	}
	return conn, err
}

// run runs the worker loop until ctx ends and it has drained.
func run(ctx context.Context, w *worker.Worker, grace time.Duration, log *zap.Logger) error {
	told := context.AfterFunc(ctx, func() {
		log.Info("draining: no new requests, finishing what is in work", zap.Duration("grace", grace))
	})
	defer told()
	if err := w.Run(ctx); err != nil {
		return err
	}
	log.Info("drained")
	return nil
}
