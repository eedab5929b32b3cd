package main

import (
	"context"
	"errors"
	"fmt"
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
func conclude(ctx context.Context, submission *submit.Submission, s *settings, std streams) (ending, error) {
	patience := concludePatience
	if ctx.Err() != nil && s.NATSURL != "" {
		patience = concludeFleetPatience
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	report, err := submission.Report(ctx)
	if err != nil {
		return ending{}, err
	}
	defer report.Close() //nolint:errcheck // a file without a name, and at its end
	end := ended(report)
	if report.NotDone > 0 && submit.SameFile(s.Failed, s.File) {
		say(std.err, "failed list: not written, since it would replace the list that there is to go on with\n")
		return end, printReport(std.out, s.Output, end)
	}
	written := submit.WriteFailed(s.Failed, report)
	if written == nil {
		end = writtenTo(report, s.Failed)
	}
	if err := errors.Join(printReport(std.out, s.Output, end), written); err != nil {
		return end, err
	}
	if report.NotDone > 0 {
		return end, nil
	}
	return end, submission.Finish(ctx)
}

// interruption is the end of a submission by a signal; err is what else went wrong.
func interruption(std streams, err error) error {
	if err != nil {
		say(std.err, "sign-submit: %v\n", err)
	}
	return errInterrupted
}

// failures is the end of a submission that went to its end.
func failures(e ending) error {
	if e.Failed+e.NotDone > 0 {
		return errFailures
	}
	return nil
}

// ending is how a batch ended.
type ending struct {
	Batch  string `json:"batch"`
	Images int    `json:"images"`
	submit.Tally
	Failed  int `json:"failed"`
	NotDone int `json:"not_done"`
	// FailedList and Reasons are the files that the failed list was written to.
	FailedList string `json:"failed_list,omitempty"`
	Reasons    string `json:"failed_reasons,omitempty"`
}

func ended(r *submit.Report) ending {
	return ending{Batch: r.Batch, Images: r.Done() + r.NotDone, Tally: r.Tally, Failed: r.Tally.Failed(), NotDone: r.NotDone}
}

// writtenTo is how a batch ended whose failed list was written to a file.
func writtenTo(r *submit.Report, file string) ending {
	e := ended(r)
	if r.Listed > 0 {
		e.FailedList, e.Reasons = file, submit.DetailsPath(file)
	}
	return e
}

// printFailures prints a failed list.
func printFailures(out io.Writer, output string, r *submit.Report) error {
	switch output {
	case outputJSON:
		return r.WriteJSON(out)
	case outputCSV:
		return r.WriteCSV(out)
	}
	return r.WriteText(out)
}

// printReport says how a batch ended.
func printReport(out io.Writer, output string, e ending) error {
	if output == outputJSON {
		return printJSON(out, e)
	}
	say(out, "batch %s: %d images: %d signed, %d signed already, %d skipped, %d failed", e.Batch, e.Images, e.Signed, e.AlreadySigned, e.Skipped, e.Failed)
	if e.NotDone > 0 {
		say(out, ", %d not done", e.NotDone)
	}
	say(out, "\n")
	if e.FailedList != "" {
		say(out, "failed list: %s, reasons: %s\n", e.FailedList, e.Reasons)
	}
	if e.Hidden > 0 {
		say(out, "%d signatures are hidden from cosign verify 3 by bundles on what they sign; sign with --format tag,referrer\n", e.Hidden)
	}
	return nil
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

// show prints a line on a batch now and then.
func (p *progress) show(now submit.Progress) {
	p.tell(func() string {
		total := "?"
		if now.Total > 0 {
			total = strconv.Itoa(now.Total)
		}
		return fmt.Sprintf("%d of %s done: %d signed, %d signed already, %d skipped, %d failed",
			now.Done(), total, now.Signed, now.AlreadySigned, now.Skipped, now.Failed())
	})
}

// tell prints a line when it is time for one.
func (p *progress) tell(line func() string) {
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
	say(p.out, "%s%s%s", begin, line(), end)
}

// interject says something else in between.
func (p *progress) interject(text string) {
	p.end()
	say(p.out, "%s", text)
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
