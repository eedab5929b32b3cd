package queue

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// remedied adds what to do to the errors of a connection that say nothing of it.
func (o Options) remedied(err error) error {
	remedy := ""
	switch {
	case errors.Is(err, nats.ErrNoServers):
		remedy = "see that the server runs, and that nats-url names its host and port"
	case isRefusal(err):
		remedy = o.identityRemedy()
	case errors.Is(err, nats.ErrSecureConnWanted):
		remedy = "TLS is asked for (by nats-ca, nats-cert or tls:// in nats-url), and the server has none to offer"
	default:
		remedy = o.encryptionRemedy(err)
	}
	if remedy == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, remedy)
}

// isRefusal reports whether the server does not know this client.
func isRefusal(err error) bool {
	for _, kind := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// identityRemedy is what to do where the server does not know this client.
func (o Options) identityRemedy() string {
	switch {
	case o.Creds != "":
		return fmt.Sprintf("see that the credentials in %s (nats-creds) are neither expired nor revoked, and of an account of this server", o.Creds)
	case o.NKey != "":
		user, err := nkeyUser("nats-nkey", o.NKey)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("give the server a user with nkey %s, which is that of %s (nats-nkey)", user, o.NKey)
	case o.User != "":
		return fmt.Sprintf("see that the server has the user %s (nats-user), and that %s (nats-password-file) holds his password", o.User, o.PasswordFile)
	case userInURL(o.URL):
		return "give nats-url the user and password of this role, with %2F for / and the like"
	case o.Cert != "":
		return fmt.Sprintf("see that the server takes the certificate %s (nats-cert) for a user (verify_and_map), or give a user as well", o.Cert)
	}
	return "give the user of this role: with nats-creds, nats-nkey, or nats-user and nats-password-file, or in nats-url, with %2F for / and the like"
}

// encryptionRemedy is what to do about an error of TLS, if err is one.
func (o Options) encryptionRemedy(err error) string {
	unknown, host, end := new(x509.UnknownAuthorityError), new(x509.HostnameError), new(net.OpError)
	switch {
	case errors.As(err, unknown) && o.CA != "":
		return fmt.Sprintf("the server's certificate is of no authority in %s (nats-ca)", o.CA)
	case errors.As(err, unknown):
		return "name a file with the authority of the server's certificate with nats-ca"
	case errors.As(err, host):
		return "call the server in nats-url as its certificate does"
	case errors.As(err, &end) && end.Op == "remote error", errors.Is(err, nats.ErrTLS):
		if o.Cert != "" {
			return fmt.Sprintf("see that the server takes certificates of the authority of %s (nats-cert), and that it is not expired", o.Cert)
		}
		return "the server may want a certificate of its clients: give it with nats-cert and nats-key"
	}
	return ""
}

// troubles tells what keeps a lost connection from being made again. All tries
// have the same ones: each is told once until the connection stands.
type troubles struct {
	options Options

	mu   sync.Mutex
	told map[string]bool // nil before the first connection, whose troubles are its error
}

// note takes an error that a try may have ended with.
func (t *troubles) note(err error) {
	file := new(FileError)
	switch {
	case err == nil || t.options.OnDisconnect == nil:
		return
	case errors.As(err, &file):
		err = file
	case isRefusal(err):
		err = t.options.remedied(err)
	default:
		return
	}
	t.mu.Lock()
	silent := t.told == nil || t.told[err.Error()]
	if !silent {
		t.told[err.Error()] = true
	}
	t.mu.Unlock()
	if !silent {
		t.options.OnDisconnect(err)
	}
}

// over is called when a connection stands.
func (t *troubles) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = make(map[string]bool)
}
