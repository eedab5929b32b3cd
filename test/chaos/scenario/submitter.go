package scenario

import (
	"context"
	"errors"
	"time"

	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
)

// killSubmitters kills the submitter of each batch a few times: its link stops
// after a random part of what it publishes, and there it dies.
func killSubmitters(ctx context.Context, sc *scene) error {
	link, err := peers.StartTCPProxy(ctx, sc.NATS().Address())
	if err != nil {
		return err
	}
	for _, submission := range sc.submissions {
		for range 2 + sc.random.IntN(3) {
			if err = killPublishing(ctx, sc, link, submission); err != nil {
				return errors.Join(err, link.Close())
			}
		}
		if err = submission.Start(ctx, sc.NATSURL()); err != nil {
			return errors.Join(err, link.Close())
		}
	}
	return link.Close()
}

// bytesOf is about what one request is on its way to the server.
const bytesOf = 500

func killPublishing(ctx context.Context, sc *scene, link *peers.TCPProxy, submission *fleet.Submission) error {
	limit := 1000 + sc.random.Int64N(int64(len(submission.Lines)*bytesOf))
	link.StallAfter(limit)
	if err := submission.Start(ctx, "nats://"+link.Address()); err != nil {
		return err
	}
	select {
	case <-link.Stalled():
	case <-submission.Done():
	case <-time.After(3 * time.Second): // all was published within the limit
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := submission.Kill(); err != nil {
		return err
	}
	left, err := sc.Left(ctx, submission.Batch)
	if err != nil {
		return err
	}
	done, err := sc.Done(ctx, submission.Batch)
	if err != nil {
		return err
	}
	sc.Log("kill -9 the submitter of %s behind %d bytes: %d requests are in the queue, %d are done", submission.Batch, limit, left, done)
	if accepted := left + done; accepted > 0 && accepted < len(submission.Lines)-1 {
		sc.did("SIGKILL of a submitter in the middle")
	} else {
		sc.did("SIGKILL of a submitter before or behind")
	}
	link.Cut()
	link.Resume()
	return nil
}
