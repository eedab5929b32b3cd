package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/worker"
	"github.com/signfleet/signfleet/test/peers"
)

// slots is how many images the measured worker signs at once.
const slots = 64

// throughput publishes requests from image lists and consumes them with a signer
// that does nothing: parsing and hashing of the lists, the deliveries, the
// outcomes and the confirmed ends are all in it.
func throughput(ctx context.Context, server *peers.NATS, sync string, requests, batches int) ([]Figure, error) {
	conn, err := connect(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	began := time.Now()
	for n := range batches {
		if err := publish(ctx, conn, fmt.Sprintf("batch-%d", n), requests/batches); err != nil {
			return nil, err
		}
	}
	published := time.Since(began)
	consumed, err := consume(ctx, conn, requests/batches*batches)
	if err != nil {
		return nil, err
	}
	of := fmt.Sprintf("%d requests, %d batches, sync %s", requests, batches, sync)
	return []Figure{
		{"publish", of, float64(requests) / published.Seconds(), "a second"},
		{"consume, record, acknowledge", of, float64(requests) / consumed.Seconds(), "a second"},
	}, nil
}

// connect opens a connection and lays out the queue.
func connect(ctx context.Context, server *peers.NATS) (*queue.Conn, error) {
	conn, err := queue.Connect(ctx, queue.Options{URL: server.URL(), Unlimited: true})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Setup(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// publish submits a list of so many lines as a batch.
func publish(ctx context.Context, conn *queue.Conn, batch string, lines int) error {
	list := imageList(batch, lines)
	submission, err := submit.Open(ctx, conn, submit.Options{
		File: "images.txt", Reader: func() io.Reader { return bytes.NewReader(list) },
		Platforms: []string{"linux/amd64", "linux/arm64"}, Timeout: time.Minute, Batch: batch,
	})
	if err != nil {
		return err
	}
	return submission.Publish(ctx)
}

// imageList makes requests of about 600 bytes.
func imageList(batch string, lines int) []byte {
	var list bytes.Buffer
	padding := strings.Repeat("x", 60)
	for n := range lines {
		fmt.Fprintf(&list, "registry.example.org/%s/%s/image-%07d:v1.2.3\n", batch, padding, n)
	}
	return list.Bytes()
}

// noSigner signs nothing, and takes its time where it has some.
type noSigner struct {
	takes time.Duration
	done  func(sign.Request)
}

func (s noSigner) Sign(ctx context.Context, r sign.Request) (sign.Result, error) {
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return sign.Result{}, ctx.Err()
		}
	}
	if s.done != nil {
		s.done(r)
	}
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	signature := sign.Signature{Digest: digest, Platform: "linux/amd64", Key: digest, Format: "tag", Attachment: digest}
	return sign.Result{Digest: digest, Signed: []sign.Signature{signature, signature, signature}}, nil
}

// consume runs a worker until it has signed so many images and the queue is empty.
func consume(ctx context.Context, conn *queue.Conn, requests int) (time.Duration, error) {
	limits := worker.DefaultOptions()
	limits.Name, limits.Jobs, limits.EventJobs = "bench", slots, 0
	w, err := worker.New(conn, noSigner{}, limits, zap.NewNop())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	working, stop := context.WithCancel(ctx)
	defer stop()
	group, working := errgroup.WithContext(working)
	group.Go(func() error { return w.Run(working) })
	group.Go(func() error {
		defer stop()
		return untilEmpty(ctx, conn)
	})
	err = group.Wait()
	return time.Since(began), err
}

// untilEmpty returns when the queue holds nothing any more.
func untilEmpty(ctx context.Context, conn *queue.Conn) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		backlog, err := conn.Backlog(ctx)
		if err != nil {
			return err
		}
		if backlog.Bulk+backlog.Event == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
