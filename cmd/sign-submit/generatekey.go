package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/sign"
)

const generateKeyLong = `generate-key makes an ECDSA P-256 key pair, as cosign generate-key-pair does: the
private key, encrypted, in NAME.key, which its owner alone can read, and the public
key in NAME.pub.

The passphrase is read from --passphrase-file, else from the environment
(SIGNFLEET_SIGSTORE_PASSPHRASE or COSIGN_PASSWORD), else asked for twice on the
terminal. An empty one is one.

Files that are there are not overwritten, unless --force is given. If one of the two
cannot be written, the other is not either.

Exit status: 0 both files are written, 1 they could not be, 2 a mistake in the
settings.`

const generateKeyExample = `  sign-submit generate-key --prefix release
  sign-submit generate-key --prefix release --passphrase-file pass.txt`

// generating are the settings of generate-key.
type generating struct {
	Prefix         string `mapstructure:"prefix"`
	PassphraseFile string `mapstructure:"passphrase-file"`
	Force          bool   `mapstructure:"force"`
}

func generateKeyCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "generate-key", Short: "Make a key pair", Long: generateKeyLong, Example: generateKeyExample,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g := &generating{}
			if _, err := readSource(cmd.Flags(), g); err != nil {
				return err
			}
			return g.run(cmd.Context(), std)
		},
	}
	flags := command.Flags()
	flags.StringP("prefix", "p", "sigstore", "`name` of the files: name.key and name.pub")
	flags.String("passphrase-file", "", "`file` with the passphrase of the new key")
	flags.Bool("force", false, "overwrite files that are there")
	aloneFlags(flags)
	return command
}

// aloneFlags are for commands that have nothing to do with a fleet.
func aloneFlags(flags *pflag.FlagSet) { takeFlags(flags, "config", "debug") }

// takeFlags gives a command flags of a submission, with their meaning there.
func takeFlags(flags *pflag.FlagSet, names ...string) {
	submission := pflag.NewFlagSet("sign-submit", pflag.ContinueOnError)
	defineFlags(submission)
	for _, name := range names {
		flags.AddFlag(submission.Lookup(name))
	}
}

// run asks for the passphrase only when the files can be written.
func (g *generating) run(ctx context.Context, std streams) error {
	if g.Prefix == "" || strings.HasSuffix(g.Prefix, "/") {
		return usage("prefix: %q has no name for the files: they are called NAME.key and NAME.pub", g.Prefix)
	}
	if !g.Force {
		switch err := sign.CheckKeyPair(g.Prefix); {
		case errors.Is(err, fs.ErrExist):
			return usage("%w: give another --prefix, or --force to overwrite it", err)
		case err != nil:
			return usage("prefix: %w", err)
		}
	}
	privateFile, publicFile := sign.KeyPairFiles(g.Prefix)
	passphrase, err := config.NewPassphrase(ctx, config.KeyFile{Path: privateFile, Passphrase: g.PassphraseFile}, std.in, std.err)
	if err != nil {
		if ctx.Err() != nil {
			return context.Canceled
		}
		return program.UsageError{Err: err}
	}
	defer clear(passphrase)
	if len(passphrase) == 0 {
		say(std.err, "warning: the passphrase is empty, so who has %s can sign with it\n", privateFile)
	}
	private, public, err := sign.GenerateKey(passphrase)
	if err != nil {
		return err
	}
	key, err := sign.ParsePublicKey(public, nil)
	if err != nil {
		return err
	}
	if err := sign.WriteKeyPair(g.Prefix, private, public, g.Force); err != nil {
		return err
	}
	say(std.out, "private key: %s\npublic key: %s\nfingerprint: %s\n", privateFile, publicFile, key.Fingerprint())
	return nil
}
