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
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/queue"
)

// Options are what a submission asks for.
type Options struct {
	// File is the image list.
	File string
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
	// OnBadLine, when set, is told of each line that cannot be read.
	OnBadLine func(*imagelist.LineError)
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
	batch   queue.Batch
	tally   *tally

	published atomic.Int64
	total     atomic.Int64
}

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
	hash, err := HashFile(o.File)
	if err != nil {
		return nil, err
	}
	s := &Submission{options: o, conn: conn, tally: newTally()}
	if s.batch, err = s.findOrCreate(ctx, hash); err != nil {
		return nil, err
	}
	s.published.Store(int64(s.batch.Accepted))
	if s.batch.Published {
		s.total.Store(int64(s.batch.Total))
		s.tally.publishedAll()
	}
	return s, nil
}

// HashFile is the SHA-256 of a file, in hex.
func HashFile(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the user's own list
	if err != nil {
		return "", fmt.Errorf("open image list: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read image list: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
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

// errComplete ends the following of a batch all of whose requests have ended.
var errComplete = errors.New("batch complete")

// Run publishes what is not published yet and follows the batch until every
// request has its outcome. When ctx ends first, it returns the cause: what was
// accepted stays in the queue.
func (s *Submission) Run(ctx context.Context) error {
	caughtUp := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.conn.Follow(ctx, s.batch.ID, func() error {
			close(caughtUp)
			return s.complete()
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
		return s.complete()
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
	s.batch.Finished = true
	return s.conn.WriteBatch(ctx, s.batch)
}

// count takes one outcome into account.
func (s *Submission) count(o queue.Outcome) error {
	s.tally.add(o)
	if s.options.OnProgress != nil {
		s.options.OnProgress(s.Progress())
	}
	return s.complete()
}

// Progress is how far the batch has come.
func (s *Submission) Progress() Progress {
	return Progress{Total: int(s.total.Load()), Published: int(s.published.Load()), Tally: s.tally.counts()}
}

// complete returns errComplete once all requests are published and have ended.
func (s *Submission) complete() error {
	if !s.tally.isPublished() {
		return nil // asked first: from then on the total is known
	}
	if p := s.Progress(); p.Done() < p.Total {
		return nil
	}
	return errComplete
}
