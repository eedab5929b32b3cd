package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/signfleet/signfleet/test/peers"
)

// setupPatience bounds the setup: a cluster takes seconds over each stream.
const setupPatience = 2 * time.Minute

// setup makes the streams as an operator would. Their limits are small: they are
// reserved on the disk of the machine that runs the tests.
func (f *Fleet) setup(ctx context.Context) error {
	replicas := "1"
	if f.cluster != nil {
		replicas = "3"
	}
	p, err := peers.StartProgram(ctx, peers.Command{
		Path: f.binary("sign-worker"), Env: f.env(), Dir: f.options.Dir,
		Args: []string{
			"setup", "--nats-url", f.NATSURL(), "--ack-wait", f.options.AckWait.String(), "--replicas", replicas,
			"--request-bytes", "64MiB", "--record-bytes", "64MiB", "--bucket-bytes", "32MiB",
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupPatience)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		err = fmt.Errorf("%w (%w)", err, p.Kill())
	}
	if err != nil || code != 0 {
		return fmt.Errorf("sign-worker setup left with %d (%w):\n%s", code, err, p.Output())
	}
	f.Log("%s", p.Output())
	return nil
}
