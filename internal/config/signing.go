package config

import (
	"fmt"
	"math"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/registry"
)

// Signing are the settings of whoever signs: a worker, or a submitter that has
// its worker in the same process. Both programs name them alike.
type Signing struct {
	Keys            []string `mapstructure:"sigstore-key"`
	PassphraseFiles []string `mapstructure:"sigstore-passphrase-file"`
	// What the signatures are: see [Signing.Sign].
	Formats           []string `mapstructure:"format"`
	Identities        []string `mapstructure:"identity"`
	Annotations       []string `mapstructure:"annotation"`
	Timestamps        bool     `mapstructure:"record-creation-timestamp"`
	ReplaceKeys       []string `mapstructure:"replace-key"`
	ReplacePublicKeys []string `mapstructure:"replace-pubkey"`
	SkipIndex         bool     `mapstructure:"skip-index"`
	Recursive         bool     `mapstructure:"recursive"`
	ImmutableFallback bool     `mapstructure:"immutable-fallback"`
	ReportHidden      bool     `mapstructure:"report-hidden"`
	ConfirmWrites     string   `mapstructure:"confirm-writes"`

	Policy         string `mapstructure:"policy"`
	InsecurePolicy bool   `mapstructure:"insecure-policy"`
	TLSVerify      bool   `mapstructure:"tls-verify"`
	AuthFile       string `mapstructure:"authfile"`
	CertDir        string `mapstructure:"cert-dir"`

	Jobs          int           `mapstructure:"jobs"`
	Timeout       time.Duration `mapstructure:"timeout"`
	Attempts      int           `mapstructure:"attempts"`
	Backoff       time.Duration `mapstructure:"backoff"`
	MaxWait       time.Duration `mapstructure:"max-wait"`
	ShutdownGrace time.Duration `mapstructure:"shutdown-grace"`
	HostRequests  int           `mapstructure:"host-requests"`
	HostRate      float64       `mapstructure:"host-rate"`
	// After so many failures in a row a registry is left alone for so long.
	BreakerFailures int           `mapstructure:"breaker-failures"`
	BreakerPause    time.Duration `mapstructure:"breaker-pause"`
	NATSURL         string        `mapstructure:"nats-url"`
	NATS            NATS          `mapstructure:",squash"`
	Debug           bool          `mapstructure:"debug"`
}

// WorkerOnly are the settings that a submitter cannot hand to the workers of a
// fleet: they obey their own.
var WorkerOnly = []string{
	"sigstore-key", "sigstore-passphrase-file",
	"format", "identity", "annotation", "record-creation-timestamp", "replace-key", "replace-pubkey",
	"skip-index", "recursive", "immutable-fallback", "report-hidden", "confirm-writes",
	"policy", "insecure-policy", "tls-verify", "authfile", "cert-dir", "attempts", "backoff", "max-wait", "shutdown-grace",
	"host-requests", "host-rate", "breaker-failures", "breaker-pause",
}

// SigningFlags defines the flags of Signing. The limits among its defaults are
// the caller's, who knows those of the worker loop.
func SigningFlags(flags *pflag.FlagSet, d Signing) {
	keyFlags(flags)
	signatureFlags(flags)
	flags.String("policy", "", "containers-policy.json `file`; default: where podman looks")
	flags.Bool("insecure-policy", false, "sign without looking at any policy")
	flags.Bool("tls-verify", true, "verify the certificates of registries; without it plain HTTP is tried too; default: as registries.conf says")
	flags.String("authfile", "", "`file` with registry credentials; default: where podman and docker keep them")
	flags.String("cert-dir", "", "`directory` of registry certificates, as /etc/containers/certs.d")
	flags.IntP("jobs", "j", d.Jobs, "images signed at once, 1 to 256")
	flags.Duration("timeout", d.Timeout, "bound on the signing of one image, not counting the waiting for its turn")
	flags.Int("attempts", d.Attempts, "how often an image is tried before it counts as failed")
	flags.Duration("backoff", d.Backoff, "pause after the first failed attempt; it doubles up to a minute")
	flags.Duration("max-wait", d.MaxWait, "bound on the time an image waits for locks, rate limits and registries that are left alone")
	flags.Int("host-requests", d.HostRequests, "requests at once to one registry")
	flags.Float64("host-rate", d.HostRate, "requests a second to one registry by the whole fleet, of which each worker takes its share; 0 is no limit but what the registry itself says")
	flags.Int("breaker-failures", d.BreakerFailures, "after how many failures in a row a registry is left alone")
	flags.Duration("breaker-pause", d.BreakerPause, "for how long it is left alone before one image is tried there again")
	flags.Duration("shutdown-grace", d.ShutdownGrace, "how long images in work may go on after the first signal")
	CommonFlags(flags)
}

// natsURL is the one setting that may have a secret in it.
const natsURL = "nats-url"

// CommonFlags defines the flags that those who do not sign have too.
func CommonFlags(flags *pflag.FlagSet) {
	flags.String(natsURL, "", "NATS server of the fleet, nats://host:port; several separated by commas")
	natsFlags(flags)
	flags.String("config", "", "configuration `file`")
	flags.Bool("debug", false, "log what explains the rest")
}

// Validate names the first setting that cannot be obeyed and that no room checks
// by the name of its flag.
func (s Signing) Validate() error {
	if err := s.checkKeys(); err != nil {
		return err
	}
	if _, err := s.Sign(); err != nil {
		return err
	}
	switch {
	case s.HostRequests < 1:
		return fmt.Errorf("host-requests: %d is less than 1", s.HostRequests)
	case !(s.HostRate >= 0) || math.IsInf(s.HostRate, 1): // nor NaN
		return fmt.Errorf("host-rate: %v is no number of requests a second; 0 is no limit", s.HostRate)
	}
	return nil
}

// Registry are the options of the registry client.
func (s Signing) Registry(source *Source, userAgent string, log *zap.Logger) registry.Options {
	o := registry.Options{
		AuthFile: s.AuthFile, CertsDir: s.CertDir, HostConcurrency: s.HostRequests, HostRate: s.HostRate, UserAgent: userAgent, Log: log,
	}
	if source.Given("tls-verify") {
		o.TLSVerify = &s.TLSVerify
	}
	return o
}
