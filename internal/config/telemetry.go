package config

import (
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/pflag"
)

// Telemetry are the settings of how a worker tells of itself.
type Telemetry struct {
	Listen    string `mapstructure:"listen"`
	Pprof     bool   `mapstructure:"pprof"`
	LogLevel  string `mapstructure:"log-level"`
	LogFormat string `mapstructure:"log-format"`
}

// TelemetryFlags defines the flags of Telemetry.
func TelemetryFlags(flags *pflag.FlagSet) {
	ListenFlag(flags)
	flags.Bool("pprof", false, "serve profiles at /debug/pprof/ too; they tell a lot about the program")
	flags.String("log-level", "info", "the `least` that is logged: debug, info, warn or error; --debug means debug")
	flags.String("log-format", "auto", "`format` of the log: json, console, or auto: console on a terminal, else json")
}

// ListenFlag defines the flag of where a worker tells of itself.
func ListenFlag(flags *pflag.FlagSet) {
	flags.String("listen", "127.0.0.1:9464", "`address` where health (/livez, /readyz) and metrics (/metrics) are served, without authentication; empty: nowhere")
}

// Validate refuses an address that cannot be one.
func (t Telemetry) Validate() error {
	if t.Listen == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(t.Listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("listen: %q is no address: write 127.0.0.1:9464, or :9464 for all interfaces", t.Listen)
	}
	return nil
}
