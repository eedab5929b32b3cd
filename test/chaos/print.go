package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/signfleet/signfleet/test/chaos/scenario"
)

// say prints for people, who may have gone.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// describe prints what there is to say of one run.
func describe(out io.Writer, r *scenario.Report) {
	say(out, "   %d lines in %s: %s; cosign verified %d\n", r.Lines, r.Took.Round(time.Second), counts(r.Sum), r.Verified)
	say(out, "   done to it: %s\n", counts(r.Did))
	for _, b := range r.Bounds {
		say(out, "   longest of %d: %s: %s\n", b.Times, b.What, b.Longest.Round(10*time.Millisecond))
	}
	for _, note := range r.Notes {
		say(out, "   %s\n", note)
	}
	for _, complaint := range r.Complaints {
		say(out, "   COMPLAINT %s\n", complaint)
	}
	if len(r.Complaints) > 0 || r.Config.Keep {
		say(out, "   logs: %s\n   again: %s\n", r.Dir, r.Again())
	}
}

func counts(of map[string]int) string {
	parts := make([]string, 0, len(of))
	for _, what := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%d %s", of[what], what))
	}
	return strings.Join(parts, ", ")
}

// summarize prints a table of all runs.
func summarize(out io.Writer, reports []*scenario.Report) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	say(table, "\nscenario\tseed\tlines\toutcomes\tverified\ttook\tcomplaints\n")
	for _, r := range reports {
		outcomes := 0
		for _, n := range r.Sum {
			outcomes += n
		}
		say(table, "%s\t%d\t%d\t%d\t%d\t%s\t%d\n", r.Scenario, r.Config.Seed, r.Lines, outcomes, r.Verified, r.Took.Round(time.Second), len(r.Complaints))
	}
	_ = table.Flush() // of what is printed to a closed pipe nobody reads
}
