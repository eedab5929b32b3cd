package main

import (
	"cmp"
	"context"
	"errors"
	"io"

	"github.com/signfleet/signfleet/test/peers"
)

// queueOptions say how much of each thing is measured of the queue.
type queueOptions struct {
	Requests int // published, and consumed
	Synced   int // the same, with a server that syncs each write
	Ahead    int // requests in front of the batch that is to be served fairly
	Lines    int // of the list that is submitted to a fleet, to measure memory
	Alone    int // of the list that is signed without a fleet, to measure memory
}

// Figure is one thing that was measured of the queue.
type Figure struct {
	What  string  `json:"what"`
	Of    string  `json:"of"` // how many, and under what conditions
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// measureQueue measures what the queue and the worker loop around it cost: a real
// nats-server, a real submission, and workers whose signer does nothing. Each
// measurement has a server of its own.
func measureQueue(ctx context.Context, programs string, o queueOptions, progress io.Writer) ([]Figure, error) {
	var all []Figure
	for _, one := range []struct {
		sync string
		run  func(server *peers.NATS, sync string) ([]Figure, error)
	}{
		{"", func(n *peers.NATS, sync string) ([]Figure, error) { return throughput(ctx, n, sync, o.Requests, 1) }},
		{"", func(n *peers.NATS, sync string) ([]Figure, error) { return throughput(ctx, n, sync, o.Requests, 16) }},
		{"always", func(n *peers.NATS, sync string) ([]Figure, error) { return throughput(ctx, n, sync, o.Synced, 1) }},
		{"", func(n *peers.NATS, _ string) ([]Figure, error) { return fairness(ctx, n, o.Ahead) }},
		{"", func(n *peers.NATS, _ string) ([]Figure, error) { return memoryOfFleet(ctx, n, programs, o.Lines) }},
		{"", func(*peers.NATS, string) ([]Figure, error) { return memoryAlone(ctx, programs, o.Alone) }},
	} {
		figures, err := onServer(ctx, peers.NATSOptions{SyncInterval: one.sync}, func(n *peers.NATS) ([]Figure, error) {
			return one.run(n, cmp.Or(one.sync, "default"))
		})
		if err != nil {
			return all, err
		}
		for _, f := range figures {
			note(progress, "%s: %.0f %s\n", f.What, f.Value, f.Unit)
		}
		all = append(all, figures...)
	}
	return all, nil
}

func onServer(ctx context.Context, o peers.NATSOptions, do func(*peers.NATS) ([]Figure, error)) ([]Figure, error) {
	server, err := peers.StartNATSWith(ctx, o)
	if err != nil {
		return nil, err
	}
	figures, err := do(server)
	return figures, errors.Join(err, server.Close())
}
