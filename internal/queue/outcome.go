package queue

import "time"

// Verdict is how a request ended.
type Verdict string

// The verdicts there are.
const (
	Signed        Verdict = "signed"
	AlreadySigned Verdict = "already-signed"
	Skipped       Verdict = "skipped"
	Dead          Verdict = "dead"
	Cancelled     Verdict = "cancelled"
)

// Failed reports whether a line that ended so belongs on the failed list.
func (v Verdict) Failed() bool { return v == Dead || v == Cancelled }

// Outcome is the one final record of a request's generation.
type Outcome struct {
	Version   int     `json:"version"`
	ID        string  `json:"id"`
	Gen       int     `json:"gen"`
	Batch     string  `json:"batch"`
	Seq       int     `json:"seq"`
	Line      Text    `json:"line"`
	Reference string  `json:"reference,omitempty"`
	Verdict   Verdict `json:"verdict"`
	// Class and Error say why, for dead; Error is the reason for skipped.
	Class string `json:"class,omitempty"`
	Error string `json:"error,omitempty"`
	// Digest is what the reference stood for.
	Digest  string         `json:"digest,omitempty"`
	Digests []SignedDigest `json:"digests,omitempty"`
	// Request is what was asked, for cancelled: a dead letter has it for dead.
	Request *Request `json:"request,omitempty"`

	Worker      string    `json:"worker"`
	Attempts    int       `json:"attempts"`
	SubmittedAt time.Time `json:"submitted_at"`
	StartedAt   time.Time `json:"started_at"`
	FinishedAt  time.Time `json:"finished_at"`
}

// SignedDigest is one signature that an image carries now.
type SignedDigest struct {
	Digest   string `json:"digest"`
	Platform string `json:"platform"`
	Key      string `json:"key"`
	Format   string `json:"format"`
	// Attachment is the digest of the manifest that carries the signature.
	Attachment string `json:"attachment"`
	// Already is true for a signature that was there before.
	Already bool `json:"already,omitempty"`
	// Identity is what the image is called in the signature, where the image got
	// several that differ in that.
	Identity string `json:"identity,omitempty"`
	// Hidden is true for a signature that cosign verify does not look at, from
	// version 3, because the manifest has a bundle too; known only where workers
	// are told to look.
	Hidden bool `json:"hidden,omitempty"`
}

// DeadLetter is the record of a dead outcome: the whole request, and why.
type DeadLetter struct {
	Version int     `json:"version"`
	Request Request `json:"request"`
	// Body is the message itself when it could not be read as a request.
	Body     []byte    `json:"body,omitempty"`
	Class    string    `json:"class"`
	Error    string    `json:"error"`
	Attempts int       `json:"attempts"`
	Worker   string    `json:"worker"`
	DiedAt   time.Time `json:"died_at"`
}
