// Package queue is every byte that goes to or comes from NATS: requests,
// deliveries, outcomes, dead letters, the ledger of attempts, the records of
// batches and the locks.
//
// It decides how a message is laid out, where it is stored and what its
// acknowledgement means. It does not know what signing is, when a request is
// tried again or what the class of a failure stands for: it carries the words.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options say which NATS server to use and how its streams are to be laid out.
// The zero value is completed by the defaults named at each field.
type Options struct {
	// URL is a NATS URL, or several separated by commas.
	URL string
	// Name is shown to operators of the NATS server (default "signfleet").
	Name string
	// By what the server knows this client, of which one may be given: the user in
	// URL; Creds, the file with the JWT of a user and his seed that nsc makes; NKey,
	// a file with the seed of a user; or User, whose password is in PasswordFile. The
	// account follows from the user. Each file is read anew for each connection.
	Creds        string
	NKey         string
	User         string
	PasswordFile string
	// CA is a file with the authorities of the server's certificate (default: those
	// of the system), Cert and Key are files with this client's own. Any of them asks
	// for TLS, as tls:// in URL does. They too are read anew for each connection.
	CA   string
	Cert string
	Key  string
	// StreamPrefix begins the names of all streams and buckets (default
	// DefaultStreamPrefix), SubjectPrefix all subjects (default DefaultSubjectPrefix):
	// the fleets of one account differ in both.
	StreamPrefix  string
	SubjectPrefix string
	// Role is the part of this process in the fleet: it decides how the subjects
	// of answers begin. None is that of a client whom the server lets do all.
	Role Role

	// How streams are laid out by Setup, and by Ensure where they are missing.

	// Partitions is the number of queues of the bulk lane, 1 to 100 (default 16).
	Partitions int
	// Replicas is how many servers of a cluster have each stream, 1 to 5 (default 1).
	Replicas int
	// AckWait is how long after the last sign of life a request is given to
	// another worker (default 30 s).
	AckWait time.Duration
	// Retention is how long outcomes, dead letters and batches are kept (default
	// 30 days), LedgerAge how long what is known of a request that was not heard
	// of any more (default 7 days).
	Retention time.Duration
	LedgerAge time.Duration
	// DuplicateWindow is within what time a request published twice is stored
	// once (default 10 min).
	DuplicateWindow time.Duration
	// RequestBytes is what the server reserves on its disk for requests (default
	// 2 GiB), RecordBytes for outcomes and for dead letters each (default 4 GiB:
	// 1,000,000 outcomes of three digests are about 1.4 GB), BucketBytes for each
	// bucket (default 256 MiB), but for the ledger, which has as much as requests
	// where that is more. Below zero is no limit.
	RequestBytes int64
	RecordBytes  int64
	BucketBytes  int64
	// Unlimited leaves out all byte limits: for a server that serves one submission.
	Unlimited bool

	// LockTTL is how long a lock outlives its last renewal, in whole seconds
	// (default 60 s). It is renewed four times within that.
	LockTTL time.Duration
	// PollInterval is how often a lane asks which of its partitions hold
	// requests (default 0.5 s).
	PollInterval time.Duration
	// IdleWait is how long one open pull of an idle lane lasts (default 5 s).
	IdleWait time.Duration

	// InProcess connects without a network to a server in this process; URL is
	// then not used.
	InProcess nats.InProcessConnProvider
	// Meters and Tracers count and trace what goes over the connection; nil ones
	// nothing.
	Meters  metric.MeterProvider
	Tracers trace.TracerProvider
	// OnDisconnect and OnReconnect, when set, are told about the connection:
	// OnDisconnect also of what keeps it from being made again, once for each. They
	// do not use it.
	OnDisconnect func(error)
	OnReconnect  func(server string)
}

// withDefaults fills what was left zero.
func (o Options) withDefaults() Options {
	if o.Unlimited {
		o.RequestBytes, o.RecordBytes, o.BucketBytes = -1, -1, -1
	}
	o.Name = cmp.Or(o.Name, "signfleet")
	o.Partitions = cmp.Or(o.Partitions, 16)
	o.Replicas = cmp.Or(o.Replicas, 1)
	o.AckWait = cmp.Or(o.AckWait, 30*time.Second)
	o.LockTTL = cmp.Or(o.LockTTL, 60*time.Second)
	o.Retention = cmp.Or(o.Retention, 30*24*time.Hour)
	o.LedgerAge = cmp.Or(o.LedgerAge, 7*24*time.Hour)
	o.DuplicateWindow = cmp.Or(o.DuplicateWindow, 10*time.Minute)
	o.RequestBytes = max(-1, cmp.Or(o.RequestBytes, 2<<30))
	o.RecordBytes = max(-1, cmp.Or(o.RecordBytes, 4<<30))
	o.BucketBytes = max(-1, cmp.Or(o.BucketBytes, 256<<20))
	o.PollInterval = cmp.Or(o.PollInterval, 500*time.Millisecond)
	o.IdleWait = cmp.Or(o.IdleWait, 5*time.Second)
	return o
}

// Validate names the first option that cannot be obeyed.
func (o Options) Validate() error {
	switch {
	case o.URL == "" && o.InProcess == nil:
		return errors.New("nats-url: no NATS server given")
	case !o.Role.known():
		return fmt.Errorf("role: %q is none of submitter, webhook, worker, operator", o.Role)
	case o.Partitions < 0 || o.Partitions > maxPartitions:
		return fmt.Errorf("partitions: %d is not between 1 and 100", o.Partitions)
	case o.Replicas < 0 || o.Replicas > 5:
		return fmt.Errorf("replicas: %d is not between 1 and 5", o.Replicas)
	case o.AckWait < 0 || o.PollInterval < 0 || o.IdleWait < 0:
		return errors.New("a duration of the queue is negative")
	case o.AckWait > 0 && o.AckWait < time.Second/2:
		return fmt.Errorf("ack-wait: %s is too short for a sign of life in between", o.AckWait)
	case o.DuplicateWindow < 0 || o.DuplicateWindow > 0 && o.DuplicateWindow < 100*time.Millisecond:
		return fmt.Errorf("duplicate-window: %s is less than 100ms", o.DuplicateWindow)
	case o.Retention < 0 || o.Retention > 0 && o.Retention < time.Minute:
		return fmt.Errorf("retention: %s is less than a minute", o.Retention)
	case o.LedgerAge < 0 || o.LedgerAge > 0 && o.LedgerAge < time.Minute:
		return fmt.Errorf("ledger-age: %s is less than a minute", o.LedgerAge)
	case o.LockTTL < 0 || o.LockTTL%time.Second != 0:
		// The server cuts the rest off: the lock would end before its lease.
		return fmt.Errorf("lock-ttl: %s is not a whole number of seconds", o.LockTTL)
	}
	if err := checkURLs(o.URL); err != nil {
		return err
	}
	if err := o.checkIdentity(); err != nil {
		return err
	}
	return checkPrefixes(o.StreamPrefix, o.SubjectPrefix)
}

// Conn is a connection to the queue. It is safe for use by several goroutines
// and outlives a restart of the NATS server.
type Conn struct {
	options Options // Partitions and AckWait are the server's once it was asked
	names   names
	nc      *nats.Conn
	js      jetstream.JetStream
	denied  *denials
	tell    *instruments
	gauge   gauge
}

// Connect opens a connection. It fails when no server answers, or one that is
// too old; later losses are mended by themselves, without an end.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	names := o.names()
	denied := &denials{names: names}
	tell, err := newInstruments(o, names)
	if err != nil {
		return nil, fmt.Errorf("queue metrics: %w", err)
	}
	options, err := connectOptions(ctx, o, denied)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(o.URL, options...)
	if err != nil {
		if bad := new(url.Error); errors.As(err, &bad) {
			err = errors.New("not a URL") // the error would quote it, password and all
		}
		return nil, fmt.Errorf("connect to NATS at %s: %w", RedactURL(o.URL), o.remedied(err))
	}
	if err := checkServer(nc.ConnectedServerVersion()); err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to NATS at %s: %w", RedactURL(o.URL), err)
	}
	if err := checkInbox(ctx, nc, o.Role); err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to NATS at %s: %w", RedactURL(o.URL), err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(answerPatience))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to JetStream: %w", err)
	}
	c := &Conn{options: o, names: names, nc: nc, js: js, denied: denied, tell: tell}
	c.gauge.conn = c
	return c, nil
}

func connectOptions(ctx context.Context, o Options, denied *denials) ([]nats.Option, error) {
	trouble := &troubles{options: o}
	options := []nats.Option{
		nats.Name(o.Name),
		nats.CustomInboxPrefix(o.Role.inboxPrefix()),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			denied.note(err)
			trouble.note(err)
		}),
		nats.MaxReconnects(-1),
		// Credentials that are refused twice may be accepted again after a rotation.
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(500 * time.Millisecond),
		// A half-open link is noticed before a lock's lease is over.
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if o.OnDisconnect != nil && err != nil {
				o.OnDisconnect(err)
			}
		}),
		nats.ConnectHandler(func(*nats.Conn) { trouble.over() }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			trouble.over()
			if o.OnReconnect != nil {
				o.OnReconnect(RedactURL(nc.ConnectedUrl()))
			}
		}),
	}
	if deadline, ok := ctx.Deadline(); ok {
		options = append(options, nats.Timeout(time.Until(deadline)))
	}
	if o.InProcess != nil {
		return append(options, nats.InProcessServer(o.InProcess)), nil
	}
	identity, err := o.identity(trouble)
	if err != nil {
		return nil, err
	}
	return append(options, slices.Concat(identity, o.encryption(trouble))...), nil
}

var versionPattern = regexp.MustCompile(`^v?([0-9]{1,4})\.([0-9]{1,4})`)

// checkServer refuses a server whose keys cannot end by themselves, as locks
// do: they came with 2.11. A version that cannot be read is not held against it.
func checkServer(version string) error {
	match := versionPattern.FindStringSubmatch(version)
	if match == nil {
		return nil
	}
	major, _ := strconv.Atoi(match[1]) // digits alone
	minor, _ := strconv.Atoi(match[2])
	if major < 2 || major == 2 && minor < 11 {
		return fmt.Errorf("the server is nats-server %s, and 2.11 or later is needed", version)
	}
	return nil
}

// Close ends the connection at once; what was not acknowledged stays in the queue.
func (c *Conn) Close() { c.nc.Close() }

// Partitions is the number of queues of the bulk lane: after Setup and Ensure,
// of those on the server.
func (c *Conn) Partitions() int { return c.options.Partitions }

// LockTTL is how long a lock outlives its last renewal.
func (c *Conn) LockTTL() time.Duration { return c.options.LockTTL }

// AckWait is how long a delivery may go without a sign of life: after Setup and
// Ensure, on the server.
func (c *Conn) AckWait() time.Duration { return c.options.AckWait }
