// Package embedded runs a JetStream server inside the process, for a
// submission that has no NATS server to go to. Its directory belongs to one
// process at a time.
//
// It decides how such a server is run. It does not know what is stored in it.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"github.com/signfleet/signfleet/internal/queue"
)

// startPatience bounds the start of the server, recovery of its store included.
const startPatience = 2 * time.Minute

// BusyError says that another process is using the directory.
type BusyError struct {
	Dir string
	PID int // 0 when it is not known
}

func (e *BusyError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s is working on this submission already (%s)", who, e.Dir)
}

// Server is a JetStream server that is reached only from this process.
type Server struct {
	server *server.Server
	lock   *os.File
}

// Start takes the directory, which is made if needed, and starts a server on
// the store in it. It returns a *BusyError while another process has it:
// nats-server itself does not look, and two on one store lose messages.
func Start(dir string) (*Server, error) {
	lock, err := takeDir(dir)
	if err != nil {
		return nil, err
	}
	srv, err := startServer(filepath.Join(dir, "jetstream"))
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Server{server: srv, lock: lock}, nil
}

// takeDir locks the directory for the life of this process: the kernel gives
// the lock back however the process ends.
func takeDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
		lock, err := lockFile(dir, path)
		if err != nil {
			return nil, err
		}
		if !isStill(lock, path) {
			// Remove was faster: what is locked is no longer there.
			if err := lock.Close(); err != nil {
				return nil, fmt.Errorf("unlock state directory: %w", err)
			}
			continue
		}
		if err := writePID(lock); err != nil {
			return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), lock.Close())
		}
		return lock, nil
	}
}

func lockFile(dir, path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: the state directory is the caller's to choose
	if err != nil {
		return nil, fmt.Errorf("open lock of state directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close() //nolint:errcheck // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &BusyError{Dir: dir, PID: readPID(path)}
		}
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	return lock, nil
}

// isStill reports whether an open file is the one that path names.
func isStill(file *os.File, path string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(opened, named)
}

func writePID(lock *os.File) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func readPID(path string) int {
	text, err := os.ReadFile(path) //nolint:gosec // G304: the state directory is the caller's to choose
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

func startServer(dir string) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName: "signfleet-embedded",
		DontListen: true,
		JetStream:  true,
		StoreDir:   dir,
		NoSigs:     true,
		NoLog:      true,
		// A line of the image list is at most a few kB; an outcome names every
		// digest and key of an image.
		MaxPayload: 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("configure embedded NATS server: %w", err)
	}
	var log startLog
	srv.SetLoggerV2(&log, false, false, false)
	srv.Start()
	// Start comes back early, and never gets ready, when it meets a fatal error.
	if cause := log.fatal(); cause != "" || !srv.ReadyForConnections(startPatience) || !srv.JetStreamEnabled() {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS server did not start on %s; is the disk full, or the store broken? %s", dir, cause)
	}
	return srv, nil
}

// startLog keeps what the server says when it cannot start, and nothing else.
type startLog struct {
	mu   sync.Mutex
	text string
}

func (l *startLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// Fatalf keeps the first of the errors that end the start.
func (l *startLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == "" {
		l.text = fmt.Sprintf(format, v...)
	}
}

// Errorf and the others say nothing that is not told by an error elsewhere.
func (l *startLog) Errorf(string, ...any)  {}
func (l *startLog) Warnf(string, ...any)   {}
func (l *startLog) Noticef(string, ...any) {}
func (l *startLog) Debugf(string, ...any)  {}
func (l *startLog) Tracef(string, ...any)  {}

// Connect connects to the server and makes its streams. The other options are
// fitted to a server that has one client.
func (s *Server) Connect(ctx context.Context, o queue.Options) (*queue.Conn, error) {
	o.InProcess = s.server
	o.Partitions = 1
	o.Unlimited = true
	if o.DuplicateWindow == 0 {
		// The server keeps the id of each request for so long. Its one client loses
		// no answers, and a request that is there twice ends once all the same.
		o.DuplicateWindow = time.Second
	}
	if o.AckWait == 0 {
		// What a killed predecessor had in its hands comes again soon.
		o.AckWait = 5 * time.Second
	}
	conn, err := queue.Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := conn.Ensure(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	if err := conn.ForgetLocks(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Stop ends the server and gives the directory free.
func (s *Server) Stop() error {
	s.server.Shutdown()
	s.server.WaitForShutdown()
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("unlock state directory: %w", err)
	}
	return nil
}

// Remove deletes the directory of a server, unless a process is using it.
func Remove(dir string) error {
	lock, err := takeDir(dir)
	if err != nil {
		return err
	}
	err = os.RemoveAll(dir)
	return errors.Join(err, lock.Close())
}
