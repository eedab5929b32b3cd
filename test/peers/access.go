package peers

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// The account that registries with authentication know.
const (
	User     = "signer"
	Password = "correct horse:battery"
)

// Access is what a client needs to know to reach a registry.
type Access struct {
	PlainHTTP bool   // it speaks http
	CAFile    string // its certificate is signed by this PEM file; "" = a public one
	AuthFile  string // credentials in the format of config.json (and auth.json); "" = none
}

// DockerConfig returns the directory to use as DOCKER_CONFIG, or "".
func (a Access) DockerConfig() string {
	if a.AuthFile == "" {
		return ""
	}
	return filepath.Dir(a.AuthFile)
}

// CertsDir writes a directory laid out as containers-certs.d(5) that trusts
// the registry's CA for host, under dir, and returns it.
func (a Access) CertsDir(dir, host string) (string, error) {
	certs := filepath.Join(dir, "certs.d")
	if err := os.MkdirAll(filepath.Join(certs, host), 0o750); err != nil {
		return "", err
	}
	if a.CAFile == "" {
		return certs, nil
	}
	ca, err := os.ReadFile(a.CAFile)
	if err != nil {
		return "", err
	}
	return certs, os.WriteFile(filepath.Join(certs, host, "ca.crt"), ca, 0o600)
}

// transport returns a transport that trusts the registry's CA.
func (a Access) transport() (*http.Transport, error) {
	t := &http.Transport{MaxIdleConnsPerHost: 64}
	if a.CAFile == "" {
		return t, nil
	}
	ca, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in %s", a.CAFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// WriteAuthFile writes a config.json with one account for a host into dir and
// returns its path.
func WriteAuthFile(dir, host, user, password string) (string, error) {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	data, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": auth}}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config.json")
	return path, os.WriteFile(path, data, 0o600)
}
