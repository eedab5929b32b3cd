package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// Request is the message that asks for one image to be signed.
type Request struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Gen     int    `json:"gen"`
	Batch   string `json:"batch"`
	// Seq is the place of the request in its batch, from 1.
	Seq int `json:"seq"`
	// Line is the line of the image list as its author wrote it.
	Line Text `json:"line"`
	// Reference is what is to be signed, after overrides. It is empty for a
	// line that could not be read; Problem then says why.
	Reference string `json:"reference"`
	Problem   string `json:"problem,omitempty"`
	// Digest, when set, is the digest that the reference must have.
	Digest string `json:"digest,omitempty"`
	// Platforms are the platforms to sign, as os/architecture[/variant]; none
	// means all.
	Platforms []string `json:"platforms,omitempty"`
	// Timeout bounds the registry and key time of one attempt.
	Timeout     Seconds   `json:"timeout"`
	SubmittedAt time.Time `json:"submitted_at"`
	// Keys are the fingerprints of the keys to sign with; none means what the
	// worker's rules give.
	Keys []string `json:"keys,omitempty"`
	// Identity, when set, is the identity in the signature in place of Reference.
	Identity string `json:"identity,omitempty"`
}

// Seconds is a duration that travels as a number of seconds, exact to the microsecond.
type Seconds time.Duration

// MarshalJSON writes whole and broken seconds as a number.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(s).Round(time.Microsecond).Seconds())
}

// UnmarshalJSON reads a number of seconds, 0 to a year.
func (s *Seconds) UnmarshalJSON(data []byte) error {
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return err
	}
	if seconds < 0 || seconds > 365*24*3600 {
		return fmt.Errorf("%v seconds is out of range", seconds)
	}
	// Cutting off would turn 0.29 s into 0.289999999 s.
	*s = Seconds(time.Duration(math.Round(seconds*1e6)) * time.Microsecond)
	return nil
}

// Sealed returns the request with its version and its id, which follows from
// its batch and what it asks for.
func (r Request) Sealed() Request {
	r.Version = version
	r.ID = requestID(r)
	return r
}

func (r Request) messageID() string { return fmt.Sprintf("%s.%d", r.ID, r.Gen) }

// decodeRequest reads a request of the given batch. What it returns with an
// error is empty.
func decodeRequest(data []byte, batch string) (Request, error) {
	var r Request
	if err := decode(data, &r); err != nil {
		return Request{}, err
	}
	if r.Batch != batch {
		return Request{}, fmt.Errorf("request of batch %q under the subject of batch %q", r.Batch, batch)
	}
	if err := r.check(); err != nil {
		return Request{}, err
	}
	return r, nil
}

// check refuses what cannot be part of a subject or of a key.
func (r Request) check() error {
	switch {
	case !ValidName(r.Batch):
		return fmt.Errorf("batch %q is not a name", r.Batch)
	case !ValidName(r.ID):
		return fmt.Errorf("request id %q is not a name", r.ID)
	case r.Gen < 0 || r.Seq < 0:
		return errors.New("negative generation or sequence number")
	}
	return nil
}
