// Package accounting closes the books of a fleet after a scenario: it reads
// what the streams, the failed lists and the registry say, and complains about
// whatever does not add up.
//
// It reads the streams and the attachments themselves, with nothing of the
// project's own code in between, and it does not know what was done to the fleet.
package accounting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
)

// Books are what there is to be said of a fleet and its batches.
type Books struct {
	Batches []Batch
	// Attachments are the signatures by digest, for all digests of all lines.
	Attachments map[string][]Signature
	// Keys are the fingerprints of the fleet's keys, Foreign that of others' key.
	Keys    []string
	Foreign string
	// Vanished are signatures that a registry said it has stored and that are no
	// longer where they were written, whether or not an outcome tells of them.
	Vanished []string
	// MayFail are the classes that an image may die of in this scenario.
	MayFail []string
}

// Batch is what was asked for in one batch, and what became of it.
type Batch struct {
	Name     string
	Lines    []fleet.Line
	Outcomes []Outcome
	Letters  []DeadLetter
	// Retried is the highest generation that was noted for an id.
	Retried map[string]int
	Left    int // requests in the queue
	// Failed is the failed list as the submitter wrote it, FailedAfar as
	// anybody can have it.
	Failed, FailedAfar []string
	Exit               int   // of its submitter
	Printed            Tally // by its submitter
}

// Outcome is the part of a stored outcome that the accounts are about.
type Outcome struct {
	Subject    string    `json:"-"`
	ID         string    `json:"id"`
	Gen        int       `json:"gen"`
	Batch      string    `json:"batch"`
	Seq        int       `json:"seq"`
	Line       string    `json:"line"`
	Verdict    string    `json:"verdict"`
	Class      string    `json:"class"`
	Error      string    `json:"error"`
	Digests    []Claim   `json:"digests"`
	Worker     string    `json:"worker"`
	Attempts   int       `json:"attempts"`
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at"`
}

// Claim is a signature that an outcome says is there.
type Claim struct {
	Digest string `json:"digest"`
	Key    string `json:"key"`
}

// DeadLetter is the part of a stored dead letter that the accounts are about.
type DeadLetter struct {
	Subject string `json:"-"`
	Class   string `json:"class"`
	Request struct {
		ID    string `json:"id"`
		Gen   int    `json:"gen"`
		Batch string `json:"batch"`
	} `json:"request"`
}

// Signature is one signature of an attachment that its key verifies.
type Signature struct {
	Key      string // its fingerprint; "" when no known key verifies it
	Digest   string // what it says to be over
	Identity string
}

// Tally counts lines by how they ended.
type Tally struct {
	Signed, Already, Skipped, Failed, NotDone int
}

// Open reads all there is to know once the batches are done.
func Open(ctx context.Context, f *fleet.Fleet, foreign fleet.Key, submissions []*fleet.Submission) (*Books, error) {
	b := &Books{Attachments: map[string][]Signature{}, Foreign: foreign.Fingerprint}
	for _, key := range f.Keys() {
		b.Keys = append(b.Keys, key.Fingerprint)
	}
	for _, s := range submissions {
		batch, err := readBatch(ctx, f, s)
		if err != nil {
			return nil, fmt.Errorf("reading batch %s: %w", s.Batch, err)
		}
		b.Batches = append(b.Batches, batch)
	}
	err := b.readAttachments(ctx, f, slices.Concat(f.Keys(), []fleet.Key{foreign}))
	return b, errors.Join(err, b.readWritten(ctx, f))
}

func readBatch(ctx context.Context, f *fleet.Fleet, s *fleet.Submission) (Batch, error) {
	b := Batch{Name: s.Batch, Lines: unique(s.Lines), Exit: s.ExitCode(), Printed: tallyOf(s.Output()), Retried: map[string]int{}}
	var err error
	if b.Outcomes, err = Outcomes(ctx, f, s.Batch); err != nil {
		return b, err
	}
	letters, err := f.Stored(ctx, "SIGN_DEAD", "sign.dead."+s.Batch+".>")
	if err != nil {
		return b, err
	}
	for _, stored := range letters {
		letter := DeadLetter{Subject: stored.Subject}
		if err := json.Unmarshal(stored.Data, &letter); err != nil {
			return b, fmt.Errorf("dead letter %s: %w", stored.Subject, err)
		}
		b.Letters = append(b.Letters, letter)
	}
	notes, err := f.Stored(ctx, "KV_SIGN_BATCHES", "$KV.SIGN_BATCHES."+s.Batch+".retry.>")
	if err != nil {
		return b, err
	}
	for _, stored := range notes {
		var note struct {
			Gen int      `json:"gen"`
			IDs []string `json:"ids"`
		}
		if err := json.Unmarshal(stored.Data, &note); err != nil {
			return b, fmt.Errorf("note %s: %w", stored.Subject, err)
		}
		for _, id := range note.IDs {
			b.Retried[id] = max(b.Retried[id], note.Gen)
		}
	}
	if b.Left, err = f.Left(ctx, s.Batch); err != nil {
		return b, err
	}
	b.Failed, b.FailedAfar, err = s.Failed(ctx)
	return b, err
}

// Outcomes reads the outcomes of a batch that are stored by now.
func Outcomes(ctx context.Context, f *fleet.Fleet, batch string) ([]Outcome, error) {
	stored, err := f.Stored(ctx, "SIGN_OUTCOMES", "sign.outcome."+batch+".>")
	if err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, 0, len(stored))
	for _, s := range stored {
		o := Outcome{Subject: s.Subject}
		if err := json.Unmarshal(s.Data, &o); err != nil {
			return nil, fmt.Errorf("outcome %s: %w", s.Subject, err)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

// unique leaves the first of equal lines, as a submission does.
func unique(all []fleet.Line) []fleet.Line {
	seen := map[string]bool{}
	var kept []fleet.Line
	for _, l := range all {
		if !seen[l.Text] {
			seen[l.Text] = true
			kept = append(kept, l)
		}
	}
	return kept
}

// readAttachments reads the signatures of all that was to be signed.
func (b *Books) readAttachments(ctx context.Context, f *fleet.Fleet, keys []fleet.Key) error {
	pusher, err := peers.NewPusher(f.Proxy().Host(), f.Registry().Access())
	if err != nil {
		return err
	}
	for _, batch := range b.Batches {
		for _, line := range batch.Lines {
			for _, digest := range line.Digests() {
				at := place(line, digest)
				if _, read := b.Attachments[at]; read {
					continue
				}
				found, err := pusher.ReadSignatures(ctx, line.Image, digest)
				if err != nil {
					return fmt.Errorf("reading the signatures of %s: %w", at, err)
				}
				b.Attachments[at] = []Signature{}
				for _, s := range found {
					b.Attachments[at] = append(b.Attachments[at], recognise(s, keys))
				}
			}
		}
	}
	return nil
}

// place names a digest in its repository.
func place(line fleet.Line, digest string) string { return line.Text + " " + digest }

// recognise finds the key that a signature is by, and what it is over.
func recognise(s peers.Signature, keys []fleet.Key) Signature {
	var known Signature
	for _, key := range keys {
		if key.Verifies(s.Payload, s.Signature) {
			known.Key = key.Fingerprint
		}
	}
	var payload struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if json.Unmarshal(s.Payload, &payload) == nil {
		known.Digest, known.Identity = payload.Critical.Image.Digest, payload.Critical.Identity.Reference
	}
	return known
}

var summary = regexp.MustCompile(`batch \S+: [0-9]+ images: ([0-9]+) signed, ([0-9]+) signed already, ([0-9]+) skipped, ([0-9]+) failed(?:, ([0-9]+) not done)?`)

// tallyOf reads the last line that a submitter prints.
func tallyOf(output string) Tally {
	found := summary.FindAllStringSubmatch(output, -1)
	if len(found) == 0 {
		return Tally{}
	}
	var n [5]int
	for i, text := range found[len(found)-1][1:] {
		n[i], _ = strconv.Atoi(strings.TrimSpace(text)) // digits, or nothing for none
	}
	return Tally{Signed: n[0], Already: n[1], Skipped: n[2], Failed: n[3], NotDone: n[4]}
}
