// Package submit turns an image list into a batch of requests, follows their
// outcomes and reports what failed.
//
// It decides what belongs to a batch, where an interrupted submission goes on
// and what its failed list is. It does not know how an image is signed, and it
// prints nothing: progress is data for whoever calls it.
package submit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/queue"
)

// Options are what a submission asks for.
type Options struct {
	// File is the image list. Reader, when set, reads it anew from its start:
	// File is then only its name. A list is read several times.
	File   string
	Reader func() io.Reader
	// List says how its lines are read.
	List imagelist.Options
	// Platforms are the platforms to sign, as os/architecture; none means all.
	Platforms []string
	// Timeout bounds each attempt at an image.
	Timeout time.Duration
	// Keys and Format say what this submission signs with, where that is its
	// own choice: for the record of the batch alone.
	Keys   []string
	Format string
	// Batch names the batch; empty makes a name. A batch of that name goes on
	// if it has the same list and options.
	Batch string
	// Resume demands that the batch exists.
	Resume bool
	// CheckEvery is how often a batch that waits for outcomes is checked for
	// requests that the server has lost (default 30 s).
	CheckEvery time.Duration
	// OnBadLine, when set, is told of each line that cannot be read.
	OnBadLine func(*imagelist.LineError)
	// OnPublished, when set, is told the number of requests once all are
	// accepted by the queue.
	OnPublished func(total int)
	// OnProgress, when set, is told after each outcome; it must be quick.
	OnProgress func(Progress)
}

// Validate names the first option that cannot be obeyed.
func (o Options) Validate() error {
	switch {
	case o.File == "":
		return errors.New("file: no image list given")
	case o.Timeout <= 0:
		return fmt.Errorf("timeout: %s is not a time to sign in", o.Timeout)
	case o.Batch != "" && !queue.ValidName(o.Batch):
		return fmt.Errorf("batch: %q is not a name: use 1 to 64 of a-z, 0-9 and -", o.Batch)
	case o.Resume && o.Batch == "":
		return errors.New("resume: no batch given")
	}
	return o.List.Validate()
}

// Progress is how far a batch has come.
type Progress struct {
	Total     int // of requests; 0 while it is not known
	Published int
	Tally
}

// Submission is one batch, from its list to its report.
type Submission struct {
	options Options
	conn    *queue.Conn
	batch   queue.Batch // written by the one goroutine that publishes
	tally   *tally
	places  func() (map[requestID]int, error) // seq of each request of the list

	published atomic.Int64
	total     atomic.Int64 // of requests; unknown until all are published
}

// unknown is the total of a batch that is not published to its end.
const unknown = -1

// ErrFinished says that a batch has had its report.
var ErrFinished = errors.New("that batch has finished: give another name to submit its list again, or resume it to have its report again")

// ErrOtherList says that a batch exists and was made from another list or with
// other options.
var ErrOtherList = errors.New("that batch was submitted with another list or other options: " +
	"give the same ones to go on, or another batch name")

// ErrListChanged says that the list is no longer the one the batch was made
// from: somebody wrote to it in the meantime.
var ErrListChanged = errors.New("the image list was changed while it was being submitted: restore it to go on")

// Open reads the list once, to know it, and finds the batch or makes it.
func Open(ctx context.Context, conn *queue.Conn, o Options) (*Submission, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	hash, err := o.Hash()
	if err != nil {
		return nil, err
	}
	s := &Submission{options: o, conn: conn, tally: newTally()}
	s.places = sync.OnceValues(s.findPlaces)
	if s.batch, err = s.findOrCreate(ctx, hash); err != nil {
		return nil, err
	}
	s.published.Store(int64(s.batch.Accepted))
	s.total.Store(unknown)
	if s.batch.Published {
		s.total.Store(int64(s.batch.Total))
	}
	return s, nil
}

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

func (s *Submission) findOrCreate(ctx context.Context, hash string) (queue.Batch, error) {
	o := s.options
	want := queue.Batch{
		ID:   o.Batch,
		List: hash,
		Options: queue.BatchOptions{
			Registry: o.List.Registry, Project: o.List.Project,
			Platforms: o.Platforms, Keys: o.Keys, Format: o.Format, Timeout: queue.Seconds(o.Timeout),
		},
		CreatedAt: time.Now().UTC(),
	}
	if want.ID == "" {
		want.ID = queue.NewBatchID(want.CreatedAt)
	}
	if o.Batch != "" {
		switch have, err := s.conn.Batch(ctx, o.Batch); {
		case err == nil && same(have, want) && have.Finished && !o.Resume:
			return queue.Batch{}, fmt.Errorf("batch %s: %w", o.Batch, ErrFinished)
		case err == nil && same(have, want):
			return have, nil
		case err == nil:
			return queue.Batch{}, fmt.Errorf("batch %s: %w", o.Batch, ErrOtherList)
		case !errors.Is(err, queue.ErrNone):
			return queue.Batch{}, err
		case o.Resume:
			return queue.Batch{}, fmt.Errorf("batch %s: there is none of that name to go on with", o.Batch)
		}
	}
	partition, err := s.conn.EmptiestPartition(ctx)
	if err != nil {
		return queue.Batch{}, err
	}
	want.Partition = partition
	if err := s.conn.CreateBatch(ctx, want); err != nil {
		return queue.Batch{}, fmt.Errorf("batch %s: %w", want.ID, err)
	}
	return want, nil
}

// same reports whether two records are of one submission.
func same(a, b queue.Batch) bool {
	return a.List == b.List && a.Options.Registry == b.Options.Registry && a.Options.Project == b.Options.Project &&
		a.Options.Format == b.Options.Format &&
		slices.Equal(a.Options.Platforms, b.Options.Platforms) && slices.Equal(a.Options.Keys, b.Options.Keys)
}

// Unfinished is the latest batch on conn that has not finished, or "" if there
// is none: for a queue that serves one submission alone.
func Unfinished(ctx context.Context, conn *queue.Conn) (string, error) {
	ids, err := conn.Batches(ctx)
	if err != nil {
		return "", err
	}
	slices.Sort(ids) // by time
	for _, id := range slices.Backward(ids) {
		b, err := conn.Batch(ctx, id)
		if errors.Is(err, queue.ErrNone) {
			continue // its time was over just now
		}
		if err != nil {
			return "", err
		}
		if !b.Finished {
			return id, nil
		}
	}
	return "", nil
}

// Batch is the name of the batch.
func (s *Submission) Batch() string { return s.batch.ID }

// Run publishes what is not published yet and follows the batch until every
// request has its outcome. When ctx ends first, it returns the cause: what was
// accepted stays in the queue.
func (s *Submission) Run(ctx context.Context) error {
	if s.batch.Finished {
		return nil // there is only its report to have
	}
	caughtUp := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.conn.Follow(ctx, s.batch.ID, func() error {
			close(caughtUp)
			return s.endIfDone()
		}, s.count)
	})
	group.Go(func() error {
		// What ended in an earlier run is known before anything is published:
		// outside the duplicate window the server would take it twice.
		select {
		case <-caughtUp:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := s.publish(ctx); err != nil {
			return err
		}
		if err := s.endIfDone(); err != nil {
			return err
		}
		return s.replaceLost(ctx)
	})
	err := group.Wait()
	if errors.Is(err, errComplete) {
		return nil
	}
	return err
}

// Publish publishes what is not published yet and returns without waiting for
// any outcome.
func (s *Submission) Publish(ctx context.Context) error { return s.publish(ctx) }

// Finish notes that the batch has its report, so that the same submission
// begins a new one next time.
func (s *Submission) Finish(ctx context.Context) error {
	if s.batch.Finished {
		return nil
	}
	s.batch.Finished = true
	return s.conn.WriteBatch(ctx, s.batch)
}

// count takes one outcome into account.
func (s *Submission) count(o queue.Outcome) error {
	s.add(o)
	if s.options.OnProgress != nil {
		s.options.OnProgress(s.Progress())
	}
	return s.endIfDone()
}

// add adds an outcome to the tally. That of a request nobody could read has no
// seq: its id has a place in the list all the same.
func (s *Submission) add(o queue.Outcome) {
	if o.Seq == 0 {
		if places, err := s.places(); err == nil && len(o.ID) == len(requestID{}) {
			o.Seq = places[requestID([]byte(o.ID))]
		}
	}
	s.tally.add(o)
}

// Progress is how far the batch has come.
func (s *Submission) Progress() Progress {
	return Progress{
		Total:     max(0, int(s.total.Load())),
		Published: int(s.published.Load()),
		Tally:     s.tally.counts(),
	}
}

// done reports whether all requests are published and have ended.
func (s *Submission) done() bool {
	total := int(s.total.Load())
	return total != unknown && s.tally.counts().Done() >= total
}

// errComplete ends the following of a batch all of whose requests have ended.
var errComplete = errors.New("batch complete")

func (s *Submission) endIfDone() error {
	if s.done() {
		return errComplete
	}
	return nil
}
