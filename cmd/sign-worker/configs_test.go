package main

import (
	"testing"

	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/config/configtest"
)

// TestShippedConfigurationIsTheDefaults holds configs/sign-worker.yaml to the flags.
func TestShippedConfigurationIsTheDefaults(t *testing.T) {
	t.Parallel()
	flags := pflag.NewFlagSet("sign-worker", pflag.ContinueOnError)
	defineFlags(flags)
	configtest.IsDefaults(t, "../../configs/sign-worker.yaml", flags, config.RulesKey)
}
