package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sign-worker": main})
}

// TestScripts runs the promises of the command line, one file each.
func TestScripts(t *testing.T) {
	t.Parallel()
	shipped, err := os.ReadFile("../../configs/sign-worker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.Cd)
			key, err := plainKey()
			return errors.Join(err,
				os.WriteFile(filepath.Join(env.Cd, "plain.key"), key, 0o600),
				os.WriteFile(filepath.Join(env.Cd, "shipped.yaml"), shipped, 0o600))
		},
	})
}

// plainKey is a new private key without a passphrase.
func plainKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
