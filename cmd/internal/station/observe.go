package station

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// Observe has metrics tell how many keys there are, and how many can be used.
func (s *Station) Observe(meters metric.MeterProvider) error {
	meter := meters.Meter("github.com/signfleet/signfleet/cmd/internal/station")
	configured, err := meter.Int64ObservableGauge("signfleet.keys.configured", metric.WithUnit("{key}"),
		metric.WithDescription("Keys to sign with."))
	usable, errUsable := meter.Int64ObservableGauge("signfleet.keys.usable", metric.WithUnit("{key}"),
		metric.WithDescription("Keys that can be used at the moment."))
	if err := errors.Join(err, errUsable); err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		keys := int64(len(s.desk.Load().keys))
		o.ObserveInt64(configured, keys)
		if s.KeysUsable() != nil {
			keys = 0
		}
		o.ObserveInt64(usable, keys)
		return nil
	}, configured, usable)
	return err
}
