package submit

import (
	"context"
	"strings"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// Result is one signature of one digest of an image of the batch.
type Result struct {
	Batch     string     `json:"batch"`
	Line      queue.Text `json:"line"`
	Reference string     `json:"reference"`
	// Image is the digest that the reference stood for, and Digest what of it
	// is signed: the same, or that of one of its platforms.
	Image    string `json:"image"`
	Digest   string `json:"digest"`
	Platform string `json:"platform"`
	Key      string `json:"key"`
	Format   string `json:"format"`
	// Attachment is the digest of the manifest that carries the signature.
	Attachment string `json:"attachment"`
	// Already is true for a signature that was there before the batch.
	Already    bool      `json:"already"`
	FinishedAt time.Time `json:"finished_at"`
	// Identity is what the image is called in the signature, where it has several
	// that differ in that.
	Identity string `json:"identity"`
	// Hidden is true for a signature that cosign verify passes over, from version 3;
	// known only where those who signed were told to look.
	Hidden bool `json:"hidden"`
}

// Results calls each for every signature, in the order they were recorded: also
// of images that then failed or were cancelled. One that an earlier generation
// made already comes once.
func (b *Batch) Results(ctx context.Context, each func(Result) error) error {
	c := newCourse(b.conn, b.id)
	defer c.tally.Close() //nolint:errcheck // a file without a name
	if err := c.readNotes(ctx); err != nil {
		return err
	}
	var told keySet // of images that were asked for more than once
	return b.conn.Outcomes(ctx, b.id, func(o queue.Outcome) error {
		fresh, err := c.tally.add(o)
		if err != nil || !fresh {
			return err
		}
		several := o.Gen > 0 || c.tally.notedFor(o.ID) > 0
		for _, d := range o.Digests {
			if several && !told.add(keyOf(strings.Join([]string{o.ID, d.Digest, d.Key, d.Format, d.Identity}, " "))) {
				continue
			}
			err := each(Result{
				Batch: b.id, Line: o.Line, Reference: o.Reference, Image: o.Digest,
				Digest: d.Digest, Platform: d.Platform, Key: d.Key, Format: d.Format,
				Attachment: d.Attachment, Already: d.Already, FinishedAt: o.FinishedAt,
				Identity: d.Identity, Hidden: d.Hidden,
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
