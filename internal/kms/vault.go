package kms

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api/cliconfig"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// isVault reports whether a key is in a HashiCorp Vault or an OpenBao.
func isVault(uri string) bool {
	return strings.HasPrefix(uri, hashivault.ReferenceScheme) || strings.HasPrefix(uri, hashivault.AlternativeScheme)
}

// complete finds what is not set where sigstore's client would: in the environment
// or, for the token, as the vault command does, in ~/.vault-token. A file of that
// name can be renewed while the program runs. Done here, the token is known, and
// can be kept out of what is told; and the client tells nothing by itself.
func (v Vault) complete() (options.RPCAuth, error) {
	auth := options.RPCAuth{
		Address: cmp.Or(v.Address, os.Getenv("VAULT_ADDR"), os.Getenv("BAO_ADDR")),
		Path:    v.Mount,
		Token:   cmp.Or(v.Token, os.Getenv("VAULT_TOKEN"), os.Getenv("BAO_TOKEN")),
	}
	if auth.Address == "" {
		return auth, errors.New("VAULT_ADDR is not set: give the URL of the server in the environment")
	}
	if u, err := url.Parse(auth.Address); err != nil || !slices.Contains([]string{"http", "https", "unix"}, u.Scheme) || u.Host+u.Path == "" {
		return auth, errors.New("VAULT_ADDR is no URL of a server: write https://vault.example.com:8200") // its text may have a password in it
	}
	if auth.Token != "" {
		return auth, nil
	}
	store, err := cliconfig.DefaultTokenHelper()
	if err == nil {
		auth.Token, err = store.Get()
	}
	if err != nil {
		return auth, fmt.Errorf("VAULT_TOKEN is not set, and the vault command has none stored: %w", err)
	}
	if auth.Token == "" {
		return auth, errors.New("no token: set VAULT_TOKEN, or have one written to ~/.vault-token")
	}
	return auth, nil
}
