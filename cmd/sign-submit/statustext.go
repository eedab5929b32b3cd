package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

// printStatus shows all that is known of one batch.
func printStatus(w io.Writer, s submit.Status) error {
	say(w, "batch      %s\n", s.Batch)
	say(w, "state      %s\n", stateOf(s))
	if !s.CreatedAt.IsZero() {
		say(w, "submitted  %s UTC\n", moment(s.CreatedAt))
	}
	say(w, "images     %s: %d signed, %d signed already, %d skipped, %d failed", images(s), s.Signed, s.AlreadySigned, s.Skipped, s.Failed())
	if s.Pending > 0 {
		say(w, ", %d pending, of which %d are in the queue or in work", s.Pending, s.Waiting)
	}
	say(w, "\n")
	if s.Hidden > 0 {
		say(w, "hidden     %d signatures, from cosign verify 3\n", s.Hidden)
	}
	if s.Cancelled != nil {
		say(w, "cancelled  %s UTC\n", moment(*s.Cancelled))
	}
	for _, g := range s.Generations {
		say(w, "retry      %d images at %s UTC%s%s, generation %d\n", g.Requests, moment(g.At), prefixed(" from ", g.From), prefixed(", class ", g.Class), g.Gen)
	}
	return printRetrying(w, s)
}

// prefixed is text behind what leads to it, or nothing at all.
func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + printable(text)
}

// printRetrying shows what is being tried again, and why.
func printRetrying(w io.Writer, s submit.Status) error {
	if s.RetryingTotal == 0 {
		return nil
	}
	say(w, "\n%d images are tried again", s.RetryingTotal)
	if more := s.RetryingTotal - len(s.Retrying); more > 0 {
		say(w, "; these %d have been tried most often", len(s.Retrying))
	}
	say(w, ":\n")
	t := newTable(w, "IMAGE", "ATTEMPTS", "CLASS", "STATE", "LAST ERROR")
	for _, r := range s.Retrying {
		name := r.Reference
		if name == "" {
			name = r.ID
		}
		t.row(name, strconv.Itoa(r.Attempts), dash(r.Class), retryingState(r), dash(r.Error))
	}
	return t.end()
}

func retryingState(r submit.Retrying) string {
	var words []string
	if r.InFlight {
		words = append(words, "in work")
	} else {
		words = append(words, "waiting")
	}
	if r.Deaths > 0 {
		words = append(words, "worker deaths: "+strconv.Itoa(r.Deaths))
	}
	return strings.Join(words, ", ")
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// printFleet shows queue, workers and pauses.
func printFleet(w io.Writer, f fleetOverview) error {
	say(w, "\nqueue: %d bulk, %d event\n", f.Backlog.Bulk, f.Backlog.Event)
	for _, p := range f.Pauses {
		say(w, "paused: %s since %s UTC%s\n", printable(p.Target), moment(p.At), prefixed(" by ", p.By))
	}
	if len(f.Workers) == 0 {
		say(w, "workers: none is alive\n")
		return nil
	}
	say(w, "\n")
	t := newTable(w, "WORKER", "HOST", "VERSION", "JOBS", "IN WORK", "STATE")
	for _, p := range f.Workers {
		t.row(p.Worker, p.Host, p.Program, fmt.Sprintf("%d+%d", p.Jobs, p.EventJobs), strconv.Itoa(p.InWork), workerState(p))
	}
	if err := t.end(); err != nil {
		return err
	}
	if err := printOpenBreakers(w, f.Workers); err != nil {
		return err
	}
	return printThrottled(w, f.Workers)
}

func workerState(p queue.Presence) string {
	if p.Draining {
		return "draining"
	}
	return "serving"
}

// printOpenBreakers shows which registries are left alone, by whom and why.
func printOpenBreakers(w io.Writer, workers []queue.Presence) error {
	var rows [][]string
	for _, p := range workers {
		for _, h := range p.Hosts {
			if h.Open {
				rows = append(rows, []string{h.Host, p.Worker, h.Until.UTC().Format(time.TimeOnly), dash(h.Reason)})
			}
		}
	}
	if len(rows) == 0 {
		return nil
	}
	say(w, "\n")
	t := newTable(w, "REGISTRY LEFT ALONE", "BY WORKER", "UNTIL (UTC)", "WHY")
	for _, row := range rows {
		t.row(row...)
	}
	return t.end()
}

// printThrottled shows which registries want fewer requests than there are, and
// how many a second each worker has answered there.
func printThrottled(w io.Writer, workers []queue.Presence) error {
	var rows [][]string
	for _, p := range workers {
		for _, h := range p.Hosts {
			if h.PausedFor == 0 && h.FailedRate == 0 {
				continue
			}
			until, limit := "-", "-"
			if h.PausedFor > 0 {
				until = p.SeenAt.Add(time.Duration(h.PausedFor)).UTC().Format(time.TimeOnly)
			}
			if h.FailedRate > 0 {
				limit = strconv.FormatFloat(h.FailedRate, 'f', 0, 64)
			}
			rows = append(rows, []string{h.Host, p.Worker, strconv.FormatFloat(h.Accepted, 'f', 1, 64), limit, until})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	say(w, "\n")
	t := newTable(w, "REGISTRY THAT LIMITS", "WORKER", "ANSWERS A SECOND", "TOO MUCH FOR THE FLEET", "PAUSED UNTIL (UTC)")
	for _, row := range rows {
		t.row(row...)
	}
	return t.end()
}
