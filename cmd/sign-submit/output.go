package main

import (
	"context"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/signfleet/signfleet/internal/submit"
)

// How long a report may take, also that of a submission that was interrupted,
// and of one whose server may be away.
const (
	concludePatience      = time.Minute
	concludeFleetPatience = 10 * time.Second
)

// conclude writes the failed list of a submission, says how it ended, and closes
// its batch when nothing is left to do. The end of ctx does not keep it from that.
func conclude(ctx context.Context, submission *submit.Submission, s *settings, std streams) (submit.Report, error) {
	patience := concludePatience
	if ctx.Err() != nil && s.NATSURL != "" {
		patience = concludeFleetPatience
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	report, err := submission.Report(ctx)
	if err != nil {
		return submit.Report{}, err
	}
	printReport(std.out, report)
	if report.NotDone > 0 && submit.SameFile(s.Failed, s.File) {
		say(std.out, "failed list: not written, since it would replace the list that there is to go on with\n")
		return report, nil
	}
	if err := submit.WriteFailed(s.Failed, report); err != nil {
		return report, err
	}
	if len(report.Failures) > 0 {
		say(std.out, "failed list: %s, reasons: %s\n", s.Failed, submit.DetailsPath(s.Failed))
	}
	if report.NotDone > 0 {
		return report, nil
	}
	return report, submission.Finish(ctx)
}

// interruption is the end of a submission by a signal; err is what else went wrong.
func interruption(std streams, err error) error {
	if err != nil {
		say(std.err, "sign-submit: %v\n", err)
	}
	return errInterrupted
}

// failures is the end of a submission that went to its end.
func failures(r submit.Report) error {
	if len(r.Failures) > 0 {
		return errFailures
	}
	return nil
}

// printReport says how the batch ended.
func printReport(out io.Writer, r submit.Report) {
	total := r.Done() + r.NotDone
	say(out, "batch %s: %d images: %d signed, %d signed already, %d skipped, %d failed", r.Batch, total, r.Signed, r.AlreadySigned, r.Skipped, r.Failed())
	if r.NotDone > 0 {
		say(out, ", %d not done", r.NotDone)
	}
	say(out, "\n")
}

// How often progress is shown: on a terminal, where it stays on one line, and elsewhere.
const (
	progressOnTerminal = 200 * time.Millisecond
	progressElsewhere  = 5 * time.Second
)

// progress shows how far a batch has come.
type progress struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex
	shown time.Time
	open  bool // the line on the terminal is not ended
}

func newProgress(out io.Writer) *progress {
	f, ok := out.(*os.File)
	return &progress{out: out, terminal: ok && term.IsTerminal(int(f.Fd())), shown: time.Now()}
}

// show prints a line now and then.
func (p *progress) show(now submit.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	every, begin, end := progressElsewhere, "", "\n"
	if p.terminal {
		every, begin, end = progressOnTerminal, "\r\x1b[K", ""
	}
	if time.Since(p.shown) < every {
		return
	}
	p.shown, p.open = time.Now(), p.terminal
	total := "?"
	if now.Total > 0 {
		total = strconv.Itoa(now.Total)
	}
	say(p.out, "%s%d of %s done: %d signed, %d signed already, %d skipped, %d failed%s",
		begin, now.Done(), total, now.Signed, now.AlreadySigned, now.Skipped, now.Failed(), end)
}

// end leaves the line of the terminal.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		say(p.out, "\n")
		p.open = false
	}
}
