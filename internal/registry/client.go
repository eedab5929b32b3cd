// Package registry is every byte that goes to or comes from a container
// registry: manifests and blobs by name and digest, with the credentials, the
// TLS settings and the registries.conf that podman and skopeo use on the same
// machine.
//
// It decides how a registry is reached, who we are there, how many requests
// are under way at once, and which answer is a success. It reports failures as
// facts (status, code, outcome unknown) and refuses to know what they mean for
// an image, what a signature is, or when to try again: only reads are
// repeated here, few times and at once, everything else is the queue's
// business. No request is made that the caller did not ask for: no pings.
package registry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

const (
	defaultHostConcurrency = 16
	defaultAnswerTimeout   = time.Minute
	defaultUserAgent       = "signfleet"

	// closeGrace bounds Close: a credential helper is a process that knows
	// nothing of our cancellation.
	closeGrace = 5 * time.Second
)

// Options are what the registries are reached with. The zero value is usable:
// an empty path means the places containers/image looks at.
type Options struct {
	AuthFile       string // credentials, as auth.json or ~/.docker/config.json
	CertsDir       string // holds a directory for each host:port
	RegistriesConf string // containers-registries.conf(5)
	RegistriesDir  string // containers-registries.d(5)

	// TLSVerify nil verifies unless registries.conf says insecure; false is
	// https without verification, then plain http; true verifies always.
	TLSVerify *bool

	// ReadOnly asks for tokens that read and do not write: some registries refuse
	// those who may not write anything when they ask for both.
	ReadOnly bool

	HostConcurrency int           // requests at once to one host; 16 if zero
	HostRate        float64       // requests a second to one host by all who share it; no limit if zero
	AnswerTimeout   time.Duration // how long a host may take to answer a request; 1 min if zero
	UserAgent       string

	// OnThrottled is told when the others who share a host ought to hear of us
	// soon: a refusal has changed its pause or its rate, or we begin to ask it. The
	// request waits for it to return. May be nil.
	OnThrottled func(host string)

	// Transport replaces our own connections and with them all of TLS.
	Transport http.RoundTripper

	Log     *zap.Logger          // warnings only; nil logs nothing
	Meters  metric.MeterProvider // nil: nothing is counted
	Tracers trace.TracerProvider // nil: nothing is traced
}

// Validate names the first option that cannot be used.
func (o Options) Validate() error {
	files := []struct{ option, path string }{
		{"AuthFile", o.AuthFile},
		{"CertsDir", o.CertsDir},
		{"RegistriesConf", o.RegistriesConf},
		{"RegistriesDir", o.RegistriesDir},
	}
	for _, f := range files {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.option, err)
		}
	}
	if o.HostConcurrency < 0 {
		return fmt.Errorf("HostConcurrency: %d is negative", o.HostConcurrency)
	}
	if o.HostRate < 0 || math.IsNaN(o.HostRate) || math.IsInf(o.HostRate, 0) {
		return fmt.Errorf("HostRate: %v is no number of requests a second", o.HostRate)
	}
	if o.AnswerTimeout < 0 {
		return fmt.Errorf("AnswerTimeout: %s is negative", o.AnswerTimeout)
	}
	if strings.ContainsAny(o.UserAgent, "\r\n") {
		return errors.New("UserAgent: has a line break")
	}
	return nil
}

// Client reaches any number of registries. It is safe for concurrent use; one
// is enough for a process, and what it learns of a host (scheme, token, single
// POST or not) is shared by all its repositories.
type Client struct {
	options     Options
	config      *hostConfig
	attachments *attachmentRules
	throttles   *throttles
	observer    *observer
	shared      *flights // token fetches, credentials, constant blobs
	constants   constants

	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint
}

// New reads the machine's registry configuration. It makes no request.
func New(o Options) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.HostConcurrency == 0 {
		o.HostConcurrency = defaultHostConcurrency
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = defaultAnswerTimeout
	}
	if o.UserAgent == "" {
		o.UserAgent = defaultUserAgent
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	config, err := newHostConfig(o)
	if err != nil {
		return nil, fmt.Errorf("registry configuration: %w", err)
	}
	attachments, err := loadAttachmentRules(o.RegistriesDir)
	if err != nil {
		return nil, fmt.Errorf("registry configuration: %w", err)
	}
	seen, err := newObserver(o.Meters, o.Tracers)
	if err != nil {
		return nil, fmt.Errorf("registry metrics: %w", err)
	}
	return &Client{
		options:     o,
		config:      config,
		attachments: attachments,
		throttles:   newThrottles(o.HostConcurrency, o.HostRate, o.OnThrottled),
		observer:    seen,
		shared:      newFlights(),
		endpoints:   make(map[endpointKey]*endpoint),
	}, nil
}

// Close ends what is shared between callers and closes idle connections. It is
// for after the last call.
func (c *Client) Close() {
	if !c.shared.close(closeGrace) {
		c.options.Log.Warn("a credential lookup or upload did not end in time", zap.Duration("waited", closeGrace))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.endpoints {
		e.closeIdle()
	}
}

// Login asks host once whether the stored credentials, if there are any, are
// good. It never prompts; no credentials are as good as the answer without.
func (c *Client) Login(ctx context.Context, host string) error {
	at, err := c.config.resolveHost(host)
	if err != nil {
		return err
	}
	e, err := c.endpoint(at)
	if err != nil {
		return err
	}
	_, err = e.do(ctx, request{
		op:          "log in to " + host,
		method:      http.MethodGet,
		path:        "/v2/",
		credentials: at.name,
	}, http.StatusOK)
	return err
}
