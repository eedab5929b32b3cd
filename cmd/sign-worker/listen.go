package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/telemetry"
)

// errDraining is why a worker that finishes what it has is given no more.
var errDraining = errors.New("draining: no new requests")

// listener is where the worker tells of itself, or nothing.
type listener struct{ server *telemetry.Server }

// Close ends it.
func (l listener) Close(ctx context.Context) {
	if l.server != nil {
		l.server.Close(ctx)
	}
}

// listen serves health and metrics. Where another worker of this machine has the
// usual address, and nobody has chosen it, there is none: that is no reason not to
// sign.
func listen(ctx context.Context, s *settings, reports *telemetry.Telemetry, st *station.Station, conn *queue.Conn) (listener, error) {
	if err := errors.Join(conn.Observe(reports.Meters), st.Observe(reports.Meters)); err != nil {
		return listener{}, err
	}
	if s.Listen == "" {
		return listener{}, nil
	}
	server, err := telemetry.Listen(ctx, s.Listen, telemetry.ServerOptions{
		Checks: map[string]telemetry.Check{
			"nats":      func(context.Context) error { return conn.Connected() },
			"consumers": conn.Ready,
			"keys":      func(context.Context) error { return st.KeysUsable() },
			"serving": func(context.Context) error {
				if ctx.Err() != nil {
					return errDraining
				}
				return nil
			},
		},
		Metrics: reports, Pprof: s.Pprof, Log: s.log,
	})
	switch {
	case err == nil:
		s.log.Info("telling of health and metrics", zap.String("address", server.Address()))
		return listener{server}, nil
	case errors.Is(err, syscall.EADDRINUSE) && !s.source.Given("listen"):
		s.log.Warn("somebody else has the usual address, so there are no health and metrics: give this worker one of its own with --listen",
			zap.String("address", s.Listen))
		return listener{}, nil
	}
	return listener{}, fmt.Errorf("listen: %s: %w", s.Listen, err)
}

// sendRest sends what is left of metrics and spans.
func sendRest(ctx context.Context, reports *telemetry.Telemetry, log *zap.Logger) {
	if err := reports.Shutdown(ctx); err != nil {
		log.Warn("what is left of traces and metrics could not be sent", zap.Error(err))
	}
}
