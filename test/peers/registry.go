package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/signfleet/signfleet/test/peers/build"
)

// Auth is how a registry knows its clients.
type Auth string

// The ways there are.
const (
	NoAuth    Auth = ""
	BasicAuth Auth = "basic" // an htpasswd file with User and Password
	TokenAuth Auth = "token" // bearer tokens from a TokenServer
)

// RegistryOptions are the choices for a registry.
type RegistryOptions struct {
	Auth      Auth
	TLS       bool          // https, with a CA of its own
	TokenLife time.Duration // of tokens with TokenAuth; 0 = 5 minutes
	Under     string        // directory in which its own is made; "" = that for temporary files
}

// Registry is a distribution registry in a process of its own, with its
// storage in a temporary directory.
type Registry struct {
	options RegistryOptions
	dir     string
	address string // what it listens on: known after the first start, kept over restarts
	access  Access
	server  map[string]any // the http section of its configuration
	tokens  *TokenServer
	process *process
	logs    *logBuffer
}

// StartRegistry starts a registry on a free port of 127.0.0.1 and waits until
// it answers. Close it.
func StartRegistry(ctx context.Context, o RegistryOptions) (*Registry, error) {
	dir, err := os.MkdirTemp(o.Under, "registry-")
	if err != nil {
		return nil, err
	}
	r := &Registry{options: o, dir: dir, logs: &logBuffer{}, address: "127.0.0.1:0", server: map[string]any{}}
	r.access.PlainHTTP = !o.TLS
	if err := errors.Join(r.prepare(), r.Start(ctx)); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if o.Auth != NoAuth {
		if r.access.AuthFile, err = WriteAuthFile(dir, r.Host(), User, Password); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// Host returns the registry's address, as references begin. With TokenAuth it
// is a name, as that of the token server: clients refuse a token server on a
// private address unless it has the registry's own name.
func (r *Registry) Host() string {
	if r.options.Auth == TokenAuth {
		return strings.Replace(r.address, "127.0.0.1", "localhost", 1)
	}
	return r.address
}

// Access returns how clients reach it.
func (r *Registry) Access() Access { return r.access }

// Tokens returns the token server of a registry with TokenAuth.
func (r *Registry) Tokens() *TokenServer { return r.tokens }

// Logs returns the last output of the process, cut to what a reader of a
// failed test looks for.
func (r *Registry) Logs() string {
	lines := strings.Split(strings.TrimSpace(r.logs.String()), "\n")
	lines = lines[max(0, len(lines)-100):]
	field := regexp.MustCompile(`(msg|err\.\w+|http\.request\.(?:method|uri|useragent)|http\.response\.status)=("(?:[^"\\]|\\.)*"|\S+)`)
	for i, line := range lines {
		var short []string
		for _, m := range field.FindAllStringSubmatch(line, -1) {
			value, _, _ := strings.Cut(m[2], "?") // the state of an upload tells nothing
			short = append(short, strings.Trim(value, `"`))
		}
		if len(short) > 0 {
			lines[i] = strings.Join(short, " ")
		}
	}
	return strings.Join(lines, "\n")
}

// Start starts the process after a Stop or Kill, at the same address.
func (r *Registry) Start(ctx context.Context) error {
	config, err := r.writeConfig()
	if err != nil {
		return fmt.Errorf("configuring registry: %w", err)
	}
	path, err := build.Pinned(ctx, "registry")
	if err != nil {
		return err
	}
	r.logs.reset() // an address of an earlier run must not be taken for this one's
	env := append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if r.process, err = launch(ctx, path, []string{"serve", config}, env, r.logs); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if r.address, err = r.process.await(ctx, regexp.MustCompile(`listening on ([0-9.]+:[0-9]+)`)); err != nil {
		return err
	}
	return r.answers(ctx)
}

// Stop ends the process; what was stored stays.
func (r *Registry) Stop() error { return r.process.stop() }

// Kill ends the process with SIGKILL; what was stored stays.
func (r *Registry) Kill() error { return r.process.kill() }

// Running reports whether there is a process.
func (r *Registry) Running() bool { return r.process != nil && r.process.running() }

// Restart is Stop and Start.
func (r *Registry) Restart(ctx context.Context) error {
	if err := r.Stop(); err != nil {
		return err
	}
	return r.Start(ctx)
}

// Close ends the process and removes what was stored.
func (r *Registry) Close() error {
	var err error
	if r.process != nil {
		err = r.process.kill()
	}
	if r.tokens != nil {
		r.tokens.close()
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// prepare makes the files and servers that stay the same over restarts.
func (r *Registry) prepare() error {
	if !r.options.TLS && r.options.Auth != TokenAuth {
		return nil
	}
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	caFile, err := ca.writeCA(r.dir, "ca.crt")
	if err != nil {
		return err
	}
	if r.options.Auth == TokenAuth {
		if r.tokens, err = startTokenServer(ca, r.options.TokenLife); err != nil {
			return err
		}
	}
	if r.options.TLS {
		certFile, keyFile, err := ca.writeServer(r.dir)
		if err != nil {
			return err
		}
		r.access.CAFile = caFile
		r.server["tls"] = map[string]any{"certificate": certFile, "key": keyFile}
	}
	return nil
}

// writeConfig writes the configuration as JSON, which YAML is a superset of.
func (r *Registry) writeConfig() (string, error) {
	r.server["addr"] = r.address
	config := map[string]any{
		"version": "0.1",
		"log":     map[string]any{"level": "info", "accesslog": map[string]any{"disabled": true}},
		"storage": map[string]any{
			"filesystem":  map[string]any{"rootdirectory": filepath.Join(r.dir, "data")},
			"delete":      map[string]any{"enabled": true},
			"maintenance": map[string]any{"uploadpurging": map[string]any{"enabled": false}},
		},
		"http": r.server,
	}
	switch r.options.Auth {
	case BasicAuth:
		hash, err := bcrypt.GenerateFromPassword([]byte(Password), bcrypt.MinCost)
		if err != nil {
			return "", err
		}
		path := filepath.Join(r.dir, "htpasswd")
		if err := os.WriteFile(path, []byte(User+":"+string(hash)+"\n"), 0o600); err != nil {
			return "", err
		}
		config["auth"] = map[string]any{"htpasswd": map[string]any{"realm": "signfleet-test", "path": path}}
	case TokenAuth:
		config["auth"] = map[string]any{"token": map[string]any{
			"realm": r.tokens.realm(), "service": tokenService, "issuer": tokenIssuer,
			"rootcertbundle": filepath.Join(r.dir, "ca.crt"),
		}}
	case NoAuth:
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.dir, "config.yml")
	return path, os.WriteFile(path, data, 0o600)
}

// answers asks the registry until it serves its API.
func (r *Registry) answers(ctx context.Context) error {
	transport, err := r.access.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	scheme := "http"
	if r.options.TLS {
		scheme = "https"
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = ping(ctx, &http.Client{Transport: transport}, scheme+"://"+r.Host()+"/v2/"); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("registry does not answer: %w\n%s", err, r.Logs())
		}
	}
}

func ping(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("GET /v2/: %s", resp.Status)
	}
	return nil
}
