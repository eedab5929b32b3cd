package main

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/telemetry"
)

// traced does what a submission is about, in one trace: where the environment
// asks for spans, those of the workers and of their requests to registries belong
// to it too.
func traced(ctx context.Context, s *settings, do func(ctx context.Context) error) error {
	reports, err := telemetry.Start(ctx, telemetry.Options{Service: "sign-submit", Version: station.Version(), Log: s.log})
	if err != nil {
		return program.UsageError{Err: err}
	}
	s.reports = reports
	defer func() {
		if err := reports.Shutdown(ctx); err != nil {
			s.log.Warn("what is left of traces and metrics could not be sent", zap.Error(err))
		}
	}()
	ctx, span := reports.Tracers.Tracer("github.com/signfleet/signfleet/cmd/sign-submit").Start(ctx, "submit")
	defer span.End()
	span.SetAttributes(attribute.Bool("signfleet.fleet", s.NATSURL != ""))
	if err = do(ctx); err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}
