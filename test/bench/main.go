// Command bench measures what the queue and the worker loop around it cost: a
// real nats-server, a real submission, and workers whose signer does nothing.
// It prints what it measured and judges nothing.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"

	"github.com/signfleet/signfleet/test/peers"
)

// size is how much of each thing is measured.
type size struct {
	requests int // published, and consumed
	synced   int // the same, with a server that syncs each write
	ahead    int // requests in front of the batch that is to be served fairly
	lines    int // of the list that is submitted to a fleet, to measure memory
	alone    int // of the list that is signed without a fleet, to measure memory
}

func main() {
	s := size{}
	flag.IntVar(&s.requests, "requests", 60_000, "requests to publish and to consume")
	flag.IntVar(&s.synced, "synced", 5_000, "the same for a server that syncs each write")
	flag.IntVar(&s.ahead, "ahead", 100_000, "requests in front of others, to see how fair the lanes are")
	flag.IntVar(&s.lines, "lines", 0, "lines of a list whose submission to a fleet is measured for its memory; 0 leaves that out")
	flag.IntVar(&s.alone, "alone", 0, "the same for a submission that signs by itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure runs one thing after the other, each on a server of its own.
func measure(ctx context.Context, s size, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := []struct {
		sync string
		run  func(context.Context, *peers.NATS, string) error
	}{
		{"", func(ctx context.Context, n *peers.NATS, sync string) error {
			return throughput(ctx, n, table, sync, s.requests, 1)
		}},
		{"", func(ctx context.Context, n *peers.NATS, sync string) error {
			return throughput(ctx, n, table, sync, s.requests, 16)
		}},
		{"always", func(ctx context.Context, n *peers.NATS, sync string) error {
			return throughput(ctx, n, table, sync, s.synced, 1)
		}},
		{"", func(ctx context.Context, n *peers.NATS, _ string) error { return fairness(ctx, n, table, s.ahead) }},
		{"", func(ctx context.Context, n *peers.NATS, _ string) error { return memoryOfFleet(ctx, n, table, s.lines) }},
		{"", func(ctx context.Context, _ *peers.NATS, _ string) error { return memoryAlone(ctx, table, s.alone) }},
	}
	for _, row := range rows {
		label := cmp.Or(row.sync, "default")
		if err := onServer(ctx, peers.NATSOptions{SyncInterval: row.sync}, func(n *peers.NATS) error { return row.run(ctx, n, label) }); err != nil {
			return err
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func onServer(ctx context.Context, o peers.NATSOptions, do func(*peers.NATS) error) error {
	server, err := peers.StartNATSWith(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(do(server), server.Close())
}
