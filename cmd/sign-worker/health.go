package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/telemetry"
)

const healthLong = `sign-worker health asks the worker on this machine whether it is ready: for health
checks of containers, which have no other program in them. It asks at the address
that --listen, the environment or the configuration file gives to the worker.

Exit status: 0 when it is, 1 when it is not or does not answer, 2 for a mistake in
the settings.`

// healthPatience is how long a worker may take to say how it is.
const healthPatience = 8 * time.Second

// healthCommand asks a worker how it is.
func healthCommand(stdout io.Writer) *cobra.Command {
	command := &cobra.Command{
		Use:   "health [--listen ADDRESS]",
		Short: "Ask the worker on this machine whether it is ready",
		Long:  healthLong,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return askHealth(cmd.Context(), cmd.Flags(), stdout)
		},
	}
	flags := command.Flags()
	config.ListenFlag(flags)
	flags.String("config", "", "configuration `file`")
	flags.Bool("live", false, "ask only whether it is alive")
	return command
}

func askHealth(ctx context.Context, flags *pflag.FlagSet, stdout io.Writer) error {
	source, err := readWith(flags)
	if err != nil {
		return program.UsageError{Err: err}
	}
	var s struct {
		config.Telemetry `mapstructure:",squash"`
		Live             bool `mapstructure:"live"`
	}
	if err := source.Into(&s); err != nil {
		return program.UsageError{Err: err}
	}
	if err := s.Validate(); err != nil {
		return program.UsageError{Err: err}
	}
	if s.Listen == "" {
		return program.UsageError{Err: errors.New("listen: it is empty, so the worker cannot be asked")}
	}
	path := telemetry.ReadyPath
	if s.Live {
		path = telemetry.LivePath
	}
	text, err := get(ctx, "http://"+fromHere(s.Listen)+path)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

// fromHere is an address as it is reached from the same machine.
func fromHere(listen string) string {
	host, port, _ := net.SplitHostPort(listen) // it was validated
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// get asks a worker, without a proxy: it is on this machine.
func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", url, err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s says %s: %s", url, resp.Status, strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", ", "))
	}
	return string(body), nil
}
