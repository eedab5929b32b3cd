package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/signfleet/signfleet/test/peers"
)

// Submission is one batch and the sign-submit process that has submitted it.
type Submission struct {
	Batch string
	Lines []Line

	fleet  *Fleet
	list   string
	failed string // "" once nobody writes a list but who asks for it
	tries  int
	*peers.Program
}

// submitTimeout bounds each attempt at an image.
const submitTimeout = 10 * time.Second

// Prepare writes the image list of a batch that is not submitted yet.
func (f *Fleet) Prepare(batch string, all []Line) (*Submission, error) {
	s := &Submission{Batch: batch, Lines: all, fleet: f, list: f.path(batch + ".txt"), failed: f.path(batch + "-failed.txt")}
	texts := make([]string, len(all))
	for i, l := range all {
		texts[i] = l.Text
	}
	return s, os.WriteFile(s.list, []byte(strings.Join(texts, "\n")+"\n"), 0o600)
}

// Start starts a process for the batch, over some way to the queue; once there
// was one before, this one goes on where that was.
func (s *Submission) Start(ctx context.Context, natsURL string) error {
	s.tries++
	return s.run(ctx, "--file", s.list, "--failed", s.failed, "--nats-url", natsURL, "--batch", s.Batch, "--timeout", submitTimeout.String())
}

func (s *Submission) run(ctx context.Context, args ...string) error {
	var err error
	s.Program, err = s.fleet.submit(ctx, fmt.Sprintf("submit-%s.%d.log", s.Batch, s.tries), args...)
	if err == nil {
		s.fleet.Log("batch %s: sign-submit, pid %d", s.Batch, s.PID())
	}
	return err
}

// submit starts a sign-submit that ends with the fleet at the latest.
func (f *Fleet) submit(ctx context.Context, logName string, args ...string) (*peers.Program, error) {
	log, err := os.Create(f.path(logName))
	if err != nil {
		return nil, err
	}
	p, err := peers.StartProgram(ctx, peers.Command{
		Path: f.binary("sign-submit"), Args: args, Env: f.env(), Dir: f.options.Dir, Logs: log,
	})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.programs, f.logs = append(f.programs, p), append(f.logs, log)
	return p, nil
}

// Ask runs a command of sign-submit about the fleet and returns how it ended.
func (f *Fleet) Ask(ctx context.Context, args ...string) (code int, output string, err error) {
	p, err := f.submit(ctx, "ask-"+args[0]+".log", append(args, "--nats-url", f.NATSURL())...)
	if err != nil {
		return 0, "", err
	}
	if code, err = p.Wait(ctx); err != nil {
		err = errors.Join(err, p.Kill())
	}
	f.Log("sign-submit %s: exit %d: %s", strings.Join(args, " "), code, strings.TrimSpace(p.Output()))
	return code, p.Output(), err
}

// published is what a submitter says once all requests are accepted.
var published = regexp.MustCompile(`([0-9]+) requests submitted`)

// Published reports whether the process has said that all requests are accepted.
func (s *Submission) Published() bool { return s.Requests() > 0 }

// Requests is how many requests the batch has, once all are accepted.
func (s *Submission) Requests() int {
	found := published.FindStringSubmatch(s.Output())
	if found == nil {
		return 0
	}
	n, _ := strconv.Atoi(found[1]) // digits
	return n
}

// Rejoin has another process wait for the end of the batch, from elsewhere.
func (s *Submission) Rejoin(ctx context.Context) error {
	s.tries++
	s.failed = ""
	return s.run(ctx, "wait", s.Batch, "--nats-url", s.fleet.NATSURL())
}

// Failed returns the failed list of the batch as its submitter has written it,
// and as it can be had from anywhere.
func (s *Submission) Failed(ctx context.Context) (written, asked []string, err error) {
	path := s.fleet.path(s.Batch + "-afar.txt")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	code, output, err := s.fleet.Ask(ctx, "failed", s.Batch, "-o", path)
	if err != nil {
		return nil, nil, err
	}
	if code != 0 {
		return nil, nil, fmt.Errorf("sign-submit failed %s left with %d:\n%s", s.Batch, code, output)
	}
	if asked, err = readLines(path); err != nil || s.failed == "" {
		return asked, asked, err
	}
	written, err = readLines(s.failed)
	return written, asked, err
}

// readLines returns none when there is no such file.
func readLines(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"), nil
}

// SubmitAlone has a sign-submit sign one image in its own process, with state of
// its own, and returns how it ended.
func (f *Fleet) SubmitAlone(ctx context.Context, name string, l Line, key Key, flags ...string) (code int, output string, err error) {
	list := f.path(name + ".txt")
	if err := os.WriteFile(list, []byte(l.Text+"\n"), 0o600); err != nil {
		return 0, "", err
	}
	p, err := f.submit(ctx, "submit-"+name+".log", append([]string{
		"--file", list, "--failed", f.path(name + "-failed.txt"), "--state-dir", f.path("state-" + name),
		"--sigstore-key", key.Private, "--tls-verify=false", "--insecure-policy", "--skip-login",
	}, flags...)...)
	if err != nil {
		return 0, "", err
	}
	if code, err = p.Wait(ctx); err != nil {
		err = errors.Join(err, p.Kill())
	}
	return code, p.Output(), err
}
