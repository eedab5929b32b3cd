package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printReport prints tables for people.
func printReport(out io.Writer, r *report) error {
	table := &tables{Writer: tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)}
	table.line("%s, %d CPUs, %s; load %s before, %s after\n", r.Machine.System, r.Machine.CPUs, r.Machine.Go,
		cmp.Or(r.Machine.LoadBefore, "unknown"), cmp.Or(r.Machine.LoadAfter, "unknown"))
	if r.Engines != nil {
		table.engines(*r.Engines)
	}
	if r.Growth != nil {
		table.growth(*r.Growth)
	}
	if r.Scale != nil {
		table.scale(*r.Scale)
	}
	if len(r.Queue) > 0 {
		table.queue(r.Queue)
	}
	return errors.Join(table.err, table.Flush())
}

// tables keeps the first failure to print, so that nothing else has to.
type tables struct {
	*tabwriter.Writer
	err error
}

func (t *tables) line(format string, args ...any) {
	if _, err := fmt.Fprintf(t.Writer, format, args...); err != nil {
		t.err = cmp.Or(t.err, err)
	}
}

// title ends the table before it: cells of two tables must not be aligned.
func (t *tables) title(format string, args ...any) {
	t.err = cmp.Or(t.err, t.Flush())
	t.line("\n"+format+"\n", args...)
	t.err = cmp.Or(t.err, t.Flush())
}

func (t *tables) engines(e Engines) {
	for _, c := range e.Cells {
		t.title("%d images of an index and 2 children, %d at a time, %g ms a request, registry on %s, median of %d; sign-submit --host-requests %d",
			e.Images, c.Jobs, c.DelayMS, e.Storage, e.Rounds, c.HostRequests)
		t.figures(c.Figures)
		t.targets(c.Ratios)
	}
	if len(e.Absent) > 0 {
		t.title("not installed: %s", strings.Join(e.Absent, ", "))
	}
}

func (t *tables) growth(g Growth) {
	t.title("lists of different lengths, %d images at a time, no delay", g.Jobs)
	t.figures(g.Figures)
	t.targets(g.Targets)
}

func (t *tables) figures(all []Figures) {
	t.line("signer\timages\twall s\tspan s\tCPU s\tpeak MiB\trequests\t/signature\tsignatures/s\tms/signature\tCPU ms/signature\t\n")
	for _, f := range all {
		t.line("%s\t%d\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t%.2f\t%.0f\t%.2f\t%.2f\t\n", f.Signer, f.Images, f.Wall, f.Span, f.CPU, f.PeakMiB,
			f.Requests, f.RequestsPerSignature, f.SignaturesPerSecond, f.WallPerSignature, f.CPUPerSignature)
	}
}

func (t *tables) scale(s Scale) {
	t.title("fleets that sign %d images, %d jobs a process, %g ms a request", s.Images, s.Jobs, s.DelayMS)
	t.line("processes\tspan s\timages/s\ttimes the first\t\n")
	for _, f := range s.Fleets {
		t.line("%d\t%.2f\t%.1f\t%.2f\t\n", f.Workers, f.Span, float64(s.Images)/f.Span, f.Speed)
	}
	t.targets(s.Targets)
}

func (t *tables) queue(all []Figure) {
	t.title("the queue and the worker loop, with a signer that does nothing")
	for _, f := range all {
		t.line("%s\t%s\t%.0f %s\t\n", f.What, f.Of, f.Value, f.Unit)
	}
}

func (t *tables) targets(all []Target) {
	t.title("targets:")
	for _, one := range all {
		t.line("%s\t%.2f %s\t%s\t%s\t\n", one.Name, one.Got, one.Unit, one.bound(), one.verdict())
	}
}

func (t Target) bound() string {
	switch {
	case t.AtLeast != 0:
		return fmt.Sprintf("at least %g", t.AtLeast)
	case t.AtMost != 0:
		return fmt.Sprintf("at most %g", t.AtMost)
	}
	return ""
}

func (t Target) verdict() string {
	switch {
	case t.Met == nil:
		return ""
	case *t.Met:
		return "met"
	}
	return "MISSED"
}
