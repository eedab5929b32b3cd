package submit

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/signfleet/signfleet/internal/queue"
)

// course is how a batch goes, as far as its records were read.
type course struct {
	conn  *queue.Conn
	batch string
	tally *tally
	total atomic.Int64 // of requests; unknown until all are published
}

// unknown is the total of a batch that is not published to its end.
const unknown = -1

func newCourse(conn *queue.Conn, batch string) *course {
	c := &course{conn: conn, batch: batch, tally: newTally()}
	c.total.Store(unknown)
	return c
}

// errComplete ends the following of a batch all of whose requests have ended.
var errComplete = errors.New("batch complete")

// follow takes the outcomes of the batch into account, those of the past first,
// until every request has its final one: it returns with errComplete, another
// error or the end of ctx. caughtUp is called once those of the past were taken,
// told after each.
func (c *course) follow(ctx context.Context, caughtUp, told func()) error {
	if err := c.readNotes(ctx); err != nil {
		return err
	}
	return c.conn.Follow(ctx, c.batch, func() error {
		caughtUp()
		return c.endIfComplete(ctx)
	}, func(o queue.Outcome) error {
		if _, err := c.tally.add(o); err != nil {
			return err
		}
		told()
		return c.endIfComplete(ctx)
	})
}

// catchUp takes all outcomes into account that are stored by now.
func (c *course) catchUp(ctx context.Context) error {
	if err := c.readNotes(ctx); err != nil {
		return err
	}
	return c.conn.Outcomes(ctx, c.batch, func(o queue.Outcome) error {
		_, err := c.tally.add(o)
		return err
	})
}

// readNotes takes into account which requests are asked for in a new generation.
func (c *course) readNotes(ctx context.Context) error {
	err := c.conn.RetryNotes(ctx, c.batch, func(n queue.RetryNote) error {
		c.tally.note(n.Gen, n.IDs)
		return nil
	})
	if err != nil {
		return err
	}
	return c.tally.reconcile()
}

// complete reports whether every request has its final outcome. A request that
// has failed may have been noted for a retry since the notes were read: they are
// read again before that is said.
func (c *course) complete(ctx context.Context) (bool, error) {
	if !c.allEnded() {
		return false, nil
	}
	if err := c.readNotes(ctx); err != nil {
		return false, err
	}
	return c.allEnded(), nil
}

func (c *course) allEnded() bool {
	total := int(c.total.Load())
	return total != unknown && c.tally.counts().Done() >= total
}

func (c *course) endIfComplete(ctx context.Context) error {
	complete, err := c.complete(ctx)
	if err == nil && complete {
		return errComplete
	}
	return err
}

// movement returns what reports whether any request has ended since it was last
// asked. While some do, nothing is looked for that may be lost: the outcomes may
// only be on their way here, and all would be read once more.
func (c *course) movement() func() bool {
	last := Tally{Signed: -1}
	return func() bool {
		before := last
		last = c.tally.counts()
		return last != before
	}
}
