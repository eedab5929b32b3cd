package queue_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// tlsConfig is that of a server with a certificate of an authority that wants one
// of the same from its clients.
func tlsConfig(t *testing.T, authority *queuetest.Authority) string {
	t.Helper()
	return tlsBlock(t, authority, "verify: true")
}

func tlsBlock(t *testing.T, authority *queuetest.Authority, more string) string {
	t.Helper()
	cert, key := authority.Issue(t, "server")
	return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, timeout: 60, %s }\n", cert, key, authority.File, more)
}

// Which servers are talked to over TLS, and which certificates are enough.
func TestEncryption(t *testing.T) {
	t.Parallel()
	authority, other := queuetest.NewAuthority(t, "authority"), queuetest.NewAuthority(t, "other")
	cert, key := authority.Issue(t, "client")
	otherCert, otherKey := other.Issue(t, "client")
	mapped := func(user string) string {
		return "verify_and_map: true }\nauthorization { users: [ { user: '" + user + "@example.org' } ] "
	}
	for name, c := range map[string]struct {
		tls    string // of the server; "" for none
		scheme string
		o      queue.Options
		says   string // "" where it connects
	}{
		"the authority asks for TLS":       {"verify: false", "nats", queue.Options{CA: authority.File}, ""},
		"so does the URL":                  {"verify: false", "tls", queue.Options{CA: authority.File}, ""},
		"so does the server":               {"verify: false", "nats", queue.Options{}, "name a file with the authority of the server's certificate with nats-ca"},
		"another authority":                {"verify: false", "tls", queue.Options{CA: other.File}, "the server's certificate is of no authority in " + other.File + " (nats-ca)"},
		"no TLS for an authority":          {"", "nats", queue.Options{CA: authority.File}, "the server has none to offer"},
		"no TLS for a certificate":         {"", "nats", queue.Options{Cert: cert, Key: key}, "the server has none to offer"},
		"no TLS for a URL":                 {"", "tls", queue.Options{}, "the server has none to offer"},
		"both sides":                       {"verify: true", "nats", queue.Options{CA: authority.File, Cert: cert, Key: key}, ""},
		"no certificate of the client":     {"verify: true", "nats", queue.Options{CA: authority.File}, "give it with nats-cert and nats-key"},
		"one of another authority":         {"verify: true", "nats", queue.Options{CA: authority.File, Cert: otherCert, Key: otherKey}, "see that the server takes certificates of the authority of " + otherCert},
		"the certificate is the user":      {mapped("client"), "nats", queue.Options{CA: authority.File, Cert: cert, Key: key}, ""},
		"a certificate that is no user":    {mapped("somebody"), "nats", queue.Options{CA: authority.File, Cert: cert, Key: key}, "takes the certificate " + cert + " (nats-cert) for a user"},
		"a server of another name, though": {"verify: false", "tls-localhost", queue.Options{CA: authority.File}, "call the server in nats-url as its certificate does"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := ""
			if c.tls != "" {
				config = tlsBlock(t, authority, c.tls)
			}
			srv := served(t, 0, config)
			c.o.URL = fmt.Sprintf("%s://127.0.0.1:%d", c.scheme, portOf(srv))
			if c.scheme == "tls-localhost" {
				c.o.URL = fmt.Sprintf("tls://localhost:%d", portOf(srv))
			}
			conn, err := queue.Connect(within(t), c.o)
			if c.says == "" {
				require.NoError(t, err)
				conn.Close()
				return
			}
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, c.o.URL)
		})
	}
}
