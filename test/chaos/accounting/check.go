package accounting

import (
	"fmt"
	"slices"
	"strings"

	"github.com/signfleet/signfleet/test/chaos/fleet"
)

// Kind is what sort of thing does not add up.
type Kind string

// The kinds there are.
const (
	LostOutcome     Kind = "lost outcome"
	DoubleOutcome   Kind = "double outcome"
	StrayOutcome    Kind = "stray outcome" // of a line that nobody asked for
	WrongOutcome    Kind = "wrong outcome"
	LostLetter      Kind = "lost dead letter"
	StrayLetter     Kind = "stray dead letter"
	LostSignature   Kind = "lost signature"
	DoubleSignature Kind = "double signature"
	Unverified      Kind = "signature not accepted by cosign"
	WrongList       Kind = "wrong failed list"
	WrongReport     Kind = "wrong report"
	RequestLeft     Kind = "request left"
)

// Complaint is one thing that does not add up.
type Complaint struct {
	Kind Kind
	What string
}

func (c Complaint) String() string { return string(c.Kind) + ": " + c.What }

// Check returns what does not add up; nothing when all is as it must be.
func (b *Books) Check() []Complaint {
	var c complaints
	for _, batch := range b.Batches {
		latest := batch.checkOutcomes(&c, b.MayFail)
		batch.checkLetters(&c)
		batch.checkFailedList(&c, latest)
		batch.checkReport(&c, latest)
		if batch.Left > 0 {
			c.add(RequestLeft, "batch %s: %d requests are still in the queue", batch.Name, batch.Left)
		}
		b.checkSignatures(&c, batch)
	}
	for _, place := range b.Vanished {
		c.add(LostSignature, "%s: one that was written is no longer there", place)
	}
	return c
}

// victimsShare bounds what a storm may cost: one line of so many.
const victimsShare = 5

type complaints []Complaint

func (c *complaints) add(k Kind, format string, args ...any) {
	*c = append(*c, Complaint{k, fmt.Sprintf(format, args...)})
}

// checkOutcomes demands one outcome for each line and generation that was asked
// for, and returns the latest of each line.
func (b Batch) checkOutcomes(c *complaints, mayFail []string) map[string]Outcome {
	subjects, latest, ids := map[string]bool{}, map[string]Outcome{}, map[string]string{}
	for _, o := range b.Outcomes {
		if subjects[o.Subject] {
			c.add(DoubleOutcome, "%s has two records", o.Subject)
		}
		subjects[o.Subject] = true
		if want := fmt.Sprintf("sign.outcome.%s.%s.%d", b.Name, o.ID, o.Gen); o.Subject != want || o.Batch != b.Name {
			c.add(WrongOutcome, "%s holds the outcome of %s", o.Subject, want)
		}
		if o.Gen > b.Retried[o.ID] {
			c.add(DoubleOutcome, "%s has generation %d, and nobody retried it beyond %d", o.Line, o.Gen, b.Retried[o.ID])
		}
		if id, known := ids[o.Line]; known && id != o.ID {
			c.add(DoubleOutcome, "%s ended as %s and as %s", o.Line, id, o.ID)
		}
		ids[o.Line] = o.ID
		if before, ok := latest[o.Line]; !ok || o.Gen > before.Gen {
			latest[o.Line] = o
		}
	}
	asked, victims := map[string]bool{}, 0
	for _, line := range b.Lines {
		asked[line.Text] = true
		o, ok := latest[line.Text]
		if !ok {
			c.add(LostOutcome, "batch %s: %s has none", b.Name, line.Text)
			continue
		}
		if why := disagrees(line, o, mayFail); why != "" {
			c.add(WrongOutcome, "batch %s: %s: %s", b.Name, line.Text, why)
		}
		if o.Verdict == "dead" && slices.Contains(mayFail, o.Class) {
			victims++
		}
	}
	if victims > len(b.Lines)/victimsShare {
		c.add(WrongOutcome, "batch %s: %d of %d lines died of the storm, which is not what attempts and breakers are for", b.Name, victims, len(b.Lines))
	}
	for line, o := range latest {
		if !asked[line] {
			c.add(StrayOutcome, "%s is of %q, which is not on the list", o.Subject, line)
		}
	}
	return latest
}

// disagrees says why an outcome cannot be that of a line; "" when it can.
func disagrees(l fleet.Line, o Outcome, mayFail []string) string {
	if o.Verdict == "dead" && slices.Contains(mayFail, o.Class) || o.Verdict == "cancelled" && slices.Contains(mayFail, "cancelled") {
		return ""
	}
	told := strings.TrimSpace(fmt.Sprintf("%s %s %s", o.Verdict, o.Class, o.Error))
	switch l.Kind {
	case fleet.KindImage, fleet.KindIndex:
		if o.Verdict != "signed" && o.Verdict != "already-signed" {
			return "it can be signed, and ended " + told
		}
		claimed := map[string]bool{}
		for _, claim := range o.Digests {
			claimed[claim.Digest] = true
		}
		for _, digest := range l.Digests() {
			if !claimed[digest] {
				return "its outcome says nothing of " + digest
			}
		}
		if len(claimed) != len(l.Digests()) {
			return fmt.Sprintf("its outcome tells of %d digests, and %d were to be signed", len(claimed), len(l.Digests()))
		}
	case fleet.KindChart:
		if o.Verdict != "skipped" {
			return "it is no image, and ended " + told
		}
	case fleet.KindAbsent:
		if o.Verdict != "dead" || o.Class != "not-found" {
			return "it is not there, and ended " + told
		}
	case fleet.KindUnreadable:
		if o.Verdict != "dead" || o.Class != "invalid-request" {
			return "it cannot be read, and ended " + told
		}
	}
	return ""
}

// checkLetters demands a dead letter for each dead outcome, and no other.
func (b Batch) checkLetters(c *complaints) {
	letters := map[string]DeadLetter{}
	for _, letter := range b.Letters {
		letters[strings.TrimPrefix(letter.Subject, "sign.dead.")] = letter
	}
	for _, o := range b.Outcomes {
		key := strings.TrimPrefix(o.Subject, "sign.outcome.")
		letter, ok := letters[key]
		delete(letters, key)
		switch {
		case o.Verdict == "dead" && !ok:
			c.add(LostLetter, "%s is dead and has no letter", o.Subject)
		case o.Verdict != "dead" && ok:
			c.add(StrayLetter, "%s, and its outcome is %s", letter.Subject, o.Verdict)
		case ok && (letter.Class != o.Class || letter.Request.ID != o.ID || letter.Request.Gen != o.Gen):
			c.add(WrongOutcome, "%s says %s of %s.%d, its outcome %s of %s.%d", letter.Subject,
				letter.Class, letter.Request.ID, letter.Request.Gen, o.Class, o.ID, o.Gen)
		}
	}
	for _, letter := range letters {
		c.add(StrayLetter, "%s has no outcome", letter.Subject)
	}
}

// checkFailedList demands the lines whose latest outcome is a failure, in the
// order of the list.
func (b Batch) checkFailedList(c *complaints, latest map[string]Outcome) {
	var want []string
	for _, line := range b.Lines {
		if v := latest[line.Text].Verdict; v == "dead" || v == "cancelled" {
			want = append(want, line.Text)
		}
	}
	for _, list := range [][]string{b.Failed, b.FailedAfar} {
		if !slices.Equal(want, list) {
			c.add(WrongList, "batch %s: %d lines, and %d failed:\n  list: %q\n  failed: %q", b.Name, len(list), len(want), list, want)
		}
	}
}

// checkReport demands that the submitter told what the stream holds.
func (b Batch) checkReport(c *complaints, latest map[string]Outcome) {
	var want Tally
	for _, line := range b.Lines {
		o, ok := latest[line.Text]
		switch {
		case !ok:
			want.NotDone++
		case o.Verdict == "signed":
			want.Signed++
		case o.Verdict == "already-signed":
			want.Already++
		case o.Verdict == "skipped":
			want.Skipped++
		default:
			want.Failed++
		}
	}
	if b.Printed != want {
		c.add(WrongReport, "batch %s: its submitter counted %+v, the stream holds %+v", b.Name, b.Printed, want)
	}
	if exit := min(1, want.Failed+want.NotDone); b.Exit != exit {
		c.add(WrongReport, "batch %s: its submitter left with %d, not %d", b.Name, b.Exit, exit)
	}
}

// checkSignatures demands that what outcomes say to be signed is, by one of the
// fleet's keys and once by each, and that others' signatures are still there.
func (b *Books) checkSignatures(c *complaints, batch Batch) {
	lines := map[string]fleet.Line{}
	for _, line := range batch.Lines {
		lines[line.Text] = line
		if !line.Foreign {
			continue
		}
		if !b.carries(line, line.Image.Digest, b.Foreign) {
			c.add(LostSignature, "%s: the one that others had made before", place(line, line.Image.Digest))
		}
	}
	for _, o := range batch.Outcomes {
		line, ok := lines[o.Line]
		if !ok {
			continue // complained about already
		}
		for _, claim := range o.Digests {
			at := place(line, claim.Digest)
			switch {
			case !slices.Contains(b.Keys, claim.Key):
				c.add(WrongOutcome, "%s: signed by %s, which is no key of the fleet", at, claim.Key)
			case !b.carries(line, claim.Digest, claim.Key):
				c.add(LostSignature, "%s by %s, of batch %s by worker %s at %s", at, claim.Key, batch.Name, o.Worker, o.FinishedAt)
			case b.count(line, claim.Digest, claim.Key) > 1:
				c.add(DoubleSignature, "%s by %s", at, claim.Key)
			}
		}
	}
}

func (b *Books) carries(line fleet.Line, digest, key string) bool {
	return b.count(line, digest, key) > 0
}

// count is how many signatures of a key an attachment carries that say what they must.
func (b *Books) count(line fleet.Line, digest, key string) int {
	n := 0
	for _, s := range b.Attachments[place(line, digest)] {
		// Others have names of their own for what they sign.
		if s.Key == key && s.Digest == digest && (s.Identity == line.Text || key == b.Foreign) {
			n++
		}
	}
	return n
}

// Sum counts all outcomes by verdict and, of dead ones, class.
func (b *Books) Sum() map[string]int {
	sum := map[string]int{}
	for _, batch := range b.Batches {
		for _, o := range batch.Outcomes {
			sum[strings.TrimSpace(o.Verdict+" "+map[bool]string{true: o.Class}[o.Verdict == "dead"])]++
		}
	}
	return sum
}
