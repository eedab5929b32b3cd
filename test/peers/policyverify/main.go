//go:build containers_image_openpgp

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/image"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
)

func main() {
	rejected, err := run(context.Background(), os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if rejected {
		os.Exit(1)
	}
	os.Exit(2)
}

func run(ctx context.Context, args []string) (rejected bool, err error) {
	flags := flag.NewFlagSet("policyverify", flag.ContinueOnError)
	var (
		dir      = flags.String("dir", "", "an empty `directory` for configuration files")
		key      = flags.String("key", "", "public key `file`")
		identity = flags.String("identity", "", "signedIdentity of the policy, as `JSON`")
		authFile = flags.String("auth-file", "", "credentials `file`")
		caFile   = flags.String("ca-file", "", "`file` with the CA of the registry")
		plain    = flags.Bool("plain-http", false, "the registry speaks http")
	)
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	sys, err := systemContext(*dir, *authFile, *caFile, *plain)
	if err != nil {
		return false, err
	}
	policy, err := policyOf(*key, *identity)
	if err != nil {
		return false, err
	}
	return ask(ctx, sys, policy, flags.Arg(0))
}

// systemContext keeps the engine away from the settings of this machine.
func systemContext(dir, authFile, caFile string, plain bool) (*types.SystemContext, error) {
	registriesD := filepath.Join(dir, "registries.d")
	certs := filepath.Join(dir, "certs")
	for _, d := range []string{registriesD, certs} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, err
		}
	}
	registriesConf := filepath.Join(dir, "registries.conf")
	if err := os.WriteFile(registriesConf, nil, 0o600); err != nil {
		return nil, err
	}
	attachments := []byte("default-docker:\n  use-sigstore-attachments: true\n")
	if err := os.WriteFile(filepath.Join(registriesD, "default.yaml"), attachments, 0o600); err != nil {
		return nil, err
	}
	if caFile != "" {
		ca, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o600); err != nil {
			return nil, err
		}
	}
	if authFile == "" {
		authFile = filepath.Join(dir, "auth.json")
		if err := os.WriteFile(authFile, []byte("{}"), 0o600); err != nil {
			return nil, err
		}
	}
	return &types.SystemContext{
		AuthFilePath:                authFile,
		DockerCertPath:              certs,
		DockerInsecureSkipTLSVerify: types.NewOptionalBool(plain),
		RegistriesDirPath:           registriesD,
		SystemRegistriesConfPath:    registriesConf,
		SystemRegistriesConfDirPath: registriesD,
	}, nil
}

func policyOf(key, identity string) (*signature.Policy, error) {
	// From JSON as in a policy.json, so that the default identity is the file format's.
	signed := map[string]any{"type": "sigstoreSigned", "keyPath": key}
	if identity != "" {
		signed["signedIdentity"] = json.RawMessage(identity)
	}
	return signature.NewPolicyFromBytes(mustJSON(map[string]any{"default": []any{signed}}))
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings in maps always marshal, and JSON that is none is a mistake in the test
	}
	return data
}

func ask(ctx context.Context, sys *types.SystemContext, policy *signature.Policy, name string) (rejected bool, err error) {
	ref, err := docker.ParseReference("//" + name)
	if err != nil {
		return false, err
	}
	source, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", name, err)
	}
	defer source.Close() //nolint:errcheck // only read from
	engine, err := signature.NewPolicyContext(policy)
	if err != nil {
		return false, err
	}
	defer engine.Destroy() //nolint:errcheck // the process ends here
	// Its error is the refusal, whatever the reason: an unreadable signature
	// stops a pull as a missing one does.
	allowed, err := engine.IsRunningImageAllowed(ctx, image.UnparsedInstance(source, nil))
	if err == nil && !allowed {
		err = errors.New("rejected without a reason")
	}
	return err != nil, err
}
