package submit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/signfleet/signfleet/internal/queue"
)

// Retried is what a retry asked for.
type Retried struct {
	Batch string `json:"batch"`
	// Gen is the highest generation asked for, and 0 if nothing was.
	Gen int `json:"gen"`
	// Requests is how many failed requests are asked for once more.
	Requests int `json:"requests"`
	// Again is how many were so by an earlier retry that was interrupted before
	// it had published them: now they are published.
	Again int `json:"again"`
	// Left is how many have failed and are left: there is nothing to ask again
	// with, since their message could not be read or is no longer kept.
	Left int `json:"left"`
}

// Retry asks once more for the requests that have failed, of one class or, with
// none given, all; those of them that are asked for already it leaves alone. It
// notes them first: whoever counts outcomes takes them for pending from then on,
// and should this process die, the next retry or whoever waits for the batch
// publishes them.
func (b *Batch) Retry(ctx context.Context, class string) (Retried, error) {
	record, recorded, err := b.record(ctx)
	if err != nil {
		return Retried{}, err
	}
	// What an earlier retry noted and did not publish is neither in the queue
	// now nor among the outcomes that are read after.
	inQueue, err := b.conn.Waiting(ctx, b.id)
	if err != nil {
		return Retried{}, err
	}
	c, err := b.course(ctx, record)
	if err != nil {
		return Retried{}, err
	}
	defer c.tally.Close() //nolint:errcheck // a file without a name
	cancelled := -1
	if mark, ok, err := b.conn.Cancelled(ctx, b.id); err != nil {
		return Retried{}, err
	} else if ok {
		cancelled = mark.Gen
	}
	r := retry{course: c, failed: true, class: class, lost: inQueue == 0, cancelled: cancelled, done: Retried{Batch: b.id}}
	defer r.asked.Close() //nolint:errcheck // a file without a name

	if err := r.collect(ctx); err != nil {
		return Retried{}, err
	}
	failed, err := c.tally.failedOf(class)
	if err != nil {
		return Retried{}, err
	}
	r.done.Left = failed - r.done.Requests
	if r.nothing() {
		return r.done, nil
	}
	if err := b.reopen(ctx); err != nil {
		return Retried{}, err
	}
	if err := r.note(ctx); err != nil {
		return Retried{}, err
	}
	if err := r.publish(ctx, record, recorded); err != nil {
		return Retried{}, fmt.Errorf("batch %s: the retry is noted, and not all of it is in the queue: retry it again (%w)", b.id, err)
	}
	// Whoever had the report without the notes may have closed the batch meanwhile.
	return r.done, b.reopen(ctx)
}

// reopen notes that the batch is not at its end.
func (b *Batch) reopen(ctx context.Context) error {
	record, recorded, err := b.record(ctx)
	if err != nil || !recorded || !record.Finished {
		return err
	}
	return amend(ctx, b.conn, record, func(record *queue.Batch) { record.Finished = false })
}

// askAgain publishes the noted retries that have no outcome, and returns how
// many these are. The queue holds none of the batch, and the course has all
// outcomes there are.
func (b *Batch) askAgain(ctx context.Context, c *course, record queue.Batch, recorded bool) (int, error) {
	if c.tally.asked() == 0 {
		return 0, nil
	}
	r := retry{course: c, lost: true, cancelled: -1}
	defer r.asked.Close() //nolint:errcheck // a file without a name
	if err := r.collect(ctx); err != nil {
		return 0, err
	}
	err := r.publish(ctx, record, recorded)
	return r.done.Again, err
}

// retry is one retry on its way.
type retry struct {
	*course
	failed bool   // it asks for what has failed
	class  string // of that, for one class
	lost   bool   // it asks for what was noted before and is nowhere
	// cancelled is the highest generation that somebody has cancelled, or -1.
	cancelled int
	chosen    keySet
	asked     spool // of askedFor
	done      Retried
}

// askedFor is a request of a new generation. Again is true where that is noted.
type askedFor struct {
	Request queue.Request `json:"request"`
	Again   bool          `json:"again"`
}

// collect gathers what is asked for: a dead letter has the whole request, and so
// has the outcome of one that was cancelled.
func (r *retry) collect(ctx context.Context) error {
	err := r.tally.eachCancelled(func(request queue.Request, now standing, noted int) error {
		return r.consider(request, "", now, noted)
	})
	if err != nil {
		return err
	}
	return r.conn.DeadLetters(ctx, r.batch, func(letter queue.DeadLetter) error {
		now, noted := r.tally.standing(letter.Request.Seq, letter.Request.ID)
		return r.consider(letter.Request, letter.Class, now, noted)
	})
}

// consider asks for a request once more if that is to be done: now is how it
// stands, and noted the highest generation it was noted for.
func (r *retry) consider(request queue.Request, class string, now standing, noted int) error {
	if now.ended() && (!now.failed() || now.gen() != request.Gen) || request.Batch != r.batch {
		return nil // it ended well, or in another generation
	}
	again := noted > request.Gen
	switch {
	case again && !r.lost, !again && (!r.failed || !now.failed()):
		return nil
	case !again && r.class != "" && r.class != class:
		return nil
	case !r.chosen.add(keyOf(request.ID)):
		return nil // told twice
	case request.Line == "" && request.Reference == "":
		return nil // the request itself is not known
	}
	if again {
		request.Gen = noted
		r.done.Again++
	} else {
		// Behind what was cancelled, or it would end as cancelled at once.
		request.Gen = max(request.Gen, r.cancelled) + 1
		r.done.Requests++
	}
	if request.Gen > maxGen {
		return fmt.Errorf("batch %s: request %s was asked for %d times, and cannot be once more", r.batch, request.ID, request.Gen)
	}
	request.SubmittedAt = time.Now().UTC()
	r.done.Gen = max(r.done.Gen, request.Gen)
	_, err := r.asked.append(askedFor{Request: request, Again: again})
	return err
}

func (r *retry) nothing() bool { return r.done.Requests+r.done.Again == 0 }

// each calls visit for all that is asked for.
func (r *retry) each(visit func(askedFor) error) error {
	return r.asked.each(func(_ int64, line []byte) error {
		var a askedFor
		if err := json.Unmarshal(line, &a); err != nil {
			return fmt.Errorf("decode a record of the temporary file: %w", err)
		}
		return visit(a)
	})
}

// noteAtOnce is how many ids are held until they are noted.
const noteAtOnce = 8192

// note notes what was not noted before.
func (r *retry) note(ctx context.Context) error {
	host, _ := os.Hostname() // for people alone
	at := time.Now().UTC()
	waiting := make(map[int][]string) // ids by generation
	write := func(gen int) error {
		ids := waiting[gen]
		delete(waiting, gen)
		return r.conn.NoteRetry(ctx, queue.RetryNote{Batch: r.batch, Gen: gen, IDs: ids, Class: r.class, From: host, At: at})
	}
	err := r.each(func(a askedFor) error {
		gen := a.Request.Gen
		if a.Again {
			return nil
		}
		if waiting[gen] = append(waiting[gen], a.Request.ID); len(waiting[gen]) < noteAtOnce {
			return nil
		}
		return write(gen)
	})
	if err != nil {
		return err
	}
	for _, gen := range slices.Sorted(maps.Keys(waiting)) {
		if err := write(gen); err != nil {
			return err
		}
	}
	return nil
}

// publish publishes what is asked for, in the partition of the batch. A batch
// without a record has none: there it is the emptiest.
func (r *retry) publish(ctx context.Context, record queue.Batch, recorded bool) error {
	if r.nothing() {
		return nil
	}
	partition := record.Partition
	if !recorded {
		var err error
		if partition, err = r.conn.EmptiestPartition(ctx); err != nil {
			return err
		}
	}
	publisher := r.conn.Publisher(partition)
	err := r.each(func(a askedFor) error {
		if a.Again {
			has, err := r.hasOutcome(ctx, a.Request)
			if err != nil {
				return err
			}
			if has {
				r.done.Again--
				return nil
			}
		}
		return publisher.Publish(ctx, a.Request)
	})
	if err != nil {
		return err
	}
	return publisher.Flush(ctx)
}
