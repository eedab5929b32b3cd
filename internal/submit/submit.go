// Package submit turns an image list into a batch of requests, follows their
// outcomes, reports what failed and asks for it once more.
//
// It decides what belongs to a batch, where an interrupted submission goes on,
// when a batch is at its end, what its failed list is and what a retry asks for:
// with the list at hand ([Submission]) or from the records on the server alone
// ([Batch]). It does not know how an image is signed, and it prints nothing:
// progress is data for whoever calls it.
package submit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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
	// Keys, Format and Signing say what this submission signs with and how, where
	// that is its own choice: for the record of the batch alone.
	Keys    []string
	Format  string
	Signing queue.SigningOptions
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
	course  *course
	began   bool // the batch was not there before

	published atomic.Int64
}

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
	s := &Submission{options: o, conn: conn}
	if err := s.findOrCreate(ctx, hash); err != nil {
		return nil, err
	}
	s.course = newCourse(conn, s.batch.ID)
	s.published.Store(int64(s.batch.Accepted))
	if s.batch.Published {
		s.course.total.Store(int64(s.batch.Total))
	}
	return s, nil
}

// findOrCreate goes on with the batch of the name that was given, or makes one.
func (s *Submission) findOrCreate(ctx context.Context, hash string) error {
	o := s.options
	want := queue.Batch{
		ID:   o.Batch,
		List: hash,
		Options: queue.BatchOptions{
			Registry: o.List.Registry, Project: o.List.Project,
			Platforms: o.Platforms, Keys: o.Keys, Format: o.Format, Signing: o.Signing, Timeout: queue.Seconds(o.Timeout),
		},
		CreatedAt: time.Now().UTC(),
	}
	if want.ID == "" {
		want.ID = queue.NewBatchID(want.CreatedAt)
	} else if found, err := s.find(ctx, want); found || err != nil {
		return err
	}
	partition, err := s.conn.EmptiestPartition(ctx)
	if err != nil {
		return err
	}
	want.Partition = partition
	err = s.conn.CreateBatch(ctx, want)
	if errors.Is(err, queue.ErrBatchExists) {
		// Somebody else began it just now: theirs is ours if it is the same.
		if found, err := s.find(ctx, want); found || err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("batch %s: %w", want.ID, err)
	}
	s.batch, s.began = want, true
	return nil
}

// find takes the batch of that name, if there is one and it is the same.
func (s *Submission) find(ctx context.Context, want queue.Batch) (found bool, err error) {
	have, err := s.conn.Batch(ctx, want.ID)
	switch {
	case errors.Is(err, queue.ErrNone) && s.options.Resume:
		return false, fmt.Errorf("batch %s: there is none of that name to go on with", want.ID)
	case errors.Is(err, queue.ErrNone):
		return false, nil
	case err != nil:
		return false, err
	case !same(have, want):
		return false, fmt.Errorf("batch %s: %w", want.ID, ErrOtherList)
	case have.Finished && !s.options.Resume:
		return false, fmt.Errorf("batch %s: %w", want.ID, ErrFinished)
	}
	s.batch = have
	return true, nil
}

// same reports whether two records are of one submission.
func same(a, b queue.Batch) bool {
	return a.List == b.List && a.Options.Registry == b.Options.Registry && a.Options.Project == b.Options.Project &&
		a.Options.Format == b.Options.Format && a.Options.Signing.Equal(b.Options.Signing) &&
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
		if err := s.course.catchUp(ctx); err != nil || s.course.tally.asked() == 0 {
			return err // there is only its report to have
		}
	}
	caughtUp := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.course.follow(ctx, func() { close(caughtUp) }, s.tell)
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
		if err := s.course.endIfComplete(ctx); err != nil {
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
// any outcome: whoever is interested finds the batch by its name.
func (s *Submission) Publish(ctx context.Context) error {
	if !s.began && !s.batch.Published {
		// As in Run: what has ended is not published again.
		if err := s.course.catchUp(ctx); err != nil {
			return err
		}
	}
	return s.publish(ctx)
}

// Finish notes that the batch has its report, so that the same submission
// begins a new one next time.
func (s *Submission) Finish(ctx context.Context) error {
	err := amend(ctx, s.conn, s.batch, func(record *queue.Batch) { record.Finished = true })
	if err == nil {
		s.batch.Finished = true
	}
	return err
}

// Close gives up what the submission holds on this machine. The batch goes on.
func (s *Submission) Close() error { return s.course.tally.Close() }

// tell tells OnProgress.
func (s *Submission) tell() {
	if s.options.OnProgress != nil {
		s.options.OnProgress(s.Progress())
	}
}

// Progress is how far the batch has come.
func (s *Submission) Progress() Progress {
	return Progress{
		Total:     max(0, int(s.course.total.Load())),
		Published: int(s.published.Load()),
		Tally:     s.course.tally.counts(),
	}
}
