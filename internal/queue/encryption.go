package queue

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// encryption are the client's options of TLS, if any is asked for by more than
// the URL or the server. What it is made from is read for each handshake: the
// files may be others by then.
func (o Options) encryption(trouble *troubles) []nats.Option {
	var cert nats.TLSCertHandler
	var roots nats.RootCAsHandler
	if o.Cert != "" {
		cert = func() (tls.Certificate, error) {
			pair, err := readPair(o.Cert, o.Key)
			trouble.note(err)
			return pair, err
		}
	}
	if o.CA != "" {
		roots = func() (*x509.CertPool, error) {
			pool, err := readRoots(o.CA)
			trouble.note(err)
			return pool, err
		}
	}
	if cert == nil && roots == nil {
		return nil
	}
	return []nats.Option{nats.ClientTLSConfig(cert, roots)}
}

func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readFile("nats-cert", certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readFile("nats-key", keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, &FileError{Option: "nats-cert", File: certFile, Err: fmt.Errorf("with nats-key %s: %w", keyFile, err)}
	}
	return pair, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	data, err := readFile("nats-ca", file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, &FileError{Option: "nats-ca", File: file, Err: errors.New("it holds no certificate in PEM")}
	}
	return pool, nil
}
