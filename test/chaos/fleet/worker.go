package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/signfleet/signfleet/test/peers"
)

// Worker is one place in the fleet: the sign-worker process that has it now.
// Its link to the NATS server goes through a proxy of its own, unless the queue
// is a cluster, whose members tell clients of each other. One goroutine uses it.
type Worker struct {
	fleet *Fleet
	index int
	key   Key
	link  *peers.TCPProxy

	life    int // counts its processes
	program *peers.Program
	stopped bool
	log     *os.File
	watched chan struct{} // closed once the end of the process was judged
	wanted  chan struct{} // closed before its end is brought about
}

// serving is what a worker says once it takes requests.
var serving = regexp.MustCompile(`"serving"`)

// startPatience bounds how long a worker may take to serve.
const startPatience = time.Minute

func (f *Fleet) newWorker(ctx context.Context, index int) (*Worker, error) {
	w := &Worker{fleet: f, index: index, key: f.keys[index%len(f.keys)]}
	target := f.NATSURL()
	if f.nats != nil {
		target = f.nats.Address()
	} else {
		target, _, _ = strings.Cut(strings.TrimPrefix(target, "nats://"), ",")
	}
	var err error
	w.link, err = peers.StartTCPProxy(ctx, target)
	return w, err
}

// Name tells workers apart.
func (w *Worker) Name() string { return "worker " + strconv.Itoa(w.index) }

// Link is its way to the single NATS server.
func (w *Worker) Link() *peers.TCPProxy { return w.link }

// Running reports whether it has a process.
func (w *Worker) Running() bool { return w.program != nil && !w.program.Ended() }

// Start starts a process, and another when that ends before it serves, as it
// does without a NATS server and as the service manager of a fleet would.
func (w *Worker) Start(ctx context.Context) error {
	deadline := time.Now().Add(startPatience)
	for {
		err := w.launch(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		w.fleet.Log("%s did not come up: %s", w.Name(), firstLine(err))
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func (w *Worker) launch(ctx context.Context) error {
	w.life++
	url := "nats://" + w.link.Address()
	if w.fleet.cluster != nil {
		url = w.fleet.cluster.URL()
	}
	o := w.fleet.options
	args := append([]string{
		"--nats-url", url, "--sigstore-key", w.key.Private, "--tls-verify=false", "--insecure-policy", "--listen=",
		"--jobs", strconv.Itoa(o.Jobs), "--event-jobs", "1", "--heartbeat", (o.AckWait / 3).String(), "--debug",
	}, o.WorkerFlags...)
	var err error
	if w.log, err = os.Create(w.fleet.path(fmt.Sprintf("worker-%d.%d.log", w.index, w.life))); err != nil {
		return err
	}
	w.wanted, w.watched, w.stopped = make(chan struct{}), make(chan struct{}), false
	w.program, err = peers.StartProgram(ctx, peers.Command{
		Path: w.fleet.binary("sign-worker"), Args: args, Env: w.fleet.env(), Dir: w.fleet.options.Dir, Logs: w.log,
	})
	if err != nil {
		return errors.Join(err, w.log.Close())
	}
	if err := w.program.Says(ctx, serving, startPatience); err != nil {
		close(w.watched)
		return errors.Join(err, w.end(w.program.Kill))
	}
	go w.watch(w.program, w.wanted, w.watched)
	w.fleet.Log("%s serves, pid %d", w.Name(), w.program.PID())
	return nil
}

// watch takes note of an end that nobody brought about.
func (w *Worker) watch(p *peers.Program, wanted, watched chan struct{}) {
	defer close(watched)
	<-p.Done()
	select {
	case <-wanted:
	default:
		w.fleet.mishap("%s ended by itself, with exit code %d", w.Name(), p.ExitCode())
	}
}

// end brings about the end of the process by a function that waits for it.
func (w *Worker) end(bring func() error) error {
	close(w.wanted)
	err := bring()
	<-w.watched
	return errors.Join(err, w.log.Close())
}

// Kill ends the process with SIGKILL.
func (w *Worker) Kill() error {
	if !w.Running() {
		return nil
	}
	w.fleet.Log("kill -9 %s", w.Name())
	return w.end(w.program.Kill)
}

// Terminate ends the process with SIGTERM and waits for the end of its drain,
// which must leave 0.
func (w *Worker) Terminate(ctx context.Context, patience time.Duration) error {
	if !w.Running() {
		return nil
	}
	w.fleet.Log("SIGTERM %s", w.Name())
	return w.end(func() error {
		if err := w.program.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		code, err := w.program.Wait(ctx)
		switch {
		case err != nil:
			w.fleet.mishap("%s did not drain within %s of SIGTERM", w.Name(), patience)
			return w.program.Kill()
		case code != 0:
			w.fleet.mishap("%s ended its drain with exit code %d", w.Name(), code)
		}
		w.fleet.Log("%s drained", w.Name())
		return nil
	})
}

// Stop stops the process where it stands, until Continue.
func (w *Worker) Stop() error {
	w.fleet.Log("SIGSTOP %s", w.Name())
	w.stopped = true
	return w.program.Signal(syscall.SIGSTOP)
}

// Continue ends a Stop.
func (w *Worker) Continue() error {
	w.fleet.Log("SIGCONT %s", w.Name())
	w.stopped = false
	return w.program.Signal(syscall.SIGCONT)
}

// close ends what is left of it.
func (w *Worker) close() error {
	var err error
	if w.Running() {
		err = w.end(w.program.Kill)
	}
	return errors.Join(err, w.link.Close())
}
