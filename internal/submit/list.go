package submit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/queue"
)

// Hash is the SHA-256 of the image list, in hex.
func (o Options) Hash() (string, error) {
	list, err := o.open()
	if err != nil {
		return "", err
	}
	defer list.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, list); err != nil {
		return "", fmt.Errorf("read image list: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// open opens the list at its start.
func (o Options) open() (io.ReadCloser, error) {
	if o.Reader != nil {
		return io.NopCloser(o.Reader()), nil
	}
	list, err := os.Open(o.File)
	if err != nil {
		return nil, fmt.Errorf("open image list: %w", err)
	}
	return list, nil
}

// Lines are the lines of the list, as [imagelist.Read] returns them.
func (o Options) Lines() iter.Seq2[imagelist.Line, error] {
	return func(yield func(imagelist.Line, error) bool) {
		list, err := o.open()
		if err != nil {
			yield(imagelist.Line{}, err)
			return
		}
		defer list.Close() //nolint:errcheck // only read
		for line, err := range imagelist.Read(list, o.List) {
			if err != nil {
				err = fmt.Errorf("%s: %w", o.File, err)
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// BadLines tells OnBadLine of each line that cannot be read.
func (s *Submission) BadLines() error {
	if s.options.OnBadLine == nil {
		return nil
	}
	for line, err := range s.options.Lines() {
		if err != nil {
			return err
		}
		var bad *imagelist.LineError
		if errors.As(line.Err, &bad) {
			s.options.OnBadLine(bad)
		}
	}
	return nil
}

// requests are the requests of the list in its order, each line's first
// occurrence only, numbered from 1. They are the same however often they are
// read; where the list is not, the last thing returned is ErrListChanged.
func (s *Submission) requests() iter.Seq2[queue.Request, error] {
	return func(yield func(queue.Request, error) bool) {
		list, err := s.options.open()
		if err != nil {
			yield(queue.Request{}, err)
			return
		}
		defer list.Close() //nolint:errcheck // only read
		var seen keySet
		now := time.Now().UTC()
		hash := sha256.New()
		for line, err := range imagelist.Read(io.TeeReader(list, hash), s.options.List) {
			if err != nil {
				yield(queue.Request{}, fmt.Errorf("%s: %w", s.options.File, err))
				return
			}
			request := s.request(line, now)
			if !seen.add(keyOf(request.ID)) {
				continue
			}
			request.Seq = seen.count
			if !yield(request, nil) {
				return
			}
		}
		if hex.EncodeToString(hash.Sum(nil)) != s.batch.List {
			yield(queue.Request{}, fmt.Errorf("%s: %w", s.options.File, ErrListChanged))
		}
	}
}

// request is what one line asks for. A line that cannot be read is a request
// too: it ends dead, and so the failed list is whole wherever it is asked for.
func (s *Submission) request(line imagelist.Line, now time.Time) queue.Request {
	r := queue.Request{
		Batch:       s.batch.ID,
		Line:        queue.Text(line.Text),
		Timeout:     queue.Seconds(s.options.Timeout),
		SubmittedAt: now,
	}
	if line.Err == nil {
		r.Reference, r.Digest, r.Platforms = line.Reference, line.Digest, s.options.Platforms
		return r.Sealed()
	}
	r.Problem = line.Err.Error()
	var bad *imagelist.LineError
	if errors.As(line.Err, &bad) {
		r.Problem = bad.Reason
	}
	return r.Sealed()
}
