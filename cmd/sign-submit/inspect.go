package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/kms"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/telemetry"
)

const inspectLong = `inspect prints the digest of an image, its platforms, and for each of their digests
the signatures that are attached to it: under its .sig tag and as bundles among its
referrers. It writes nothing and needs no key.

Whose signature it is shows by the fingerprint of the key: of a --sigstore-pubkey
that verifies it, or of the key that a bundle claims to be by. What is no good as a
signature is shown with the reason.

With --raw it prints the manifest as it is stored, to the byte: of an image, or of
anything else that has a tag or a digest.

Exit status: 0 printed, 1 the image cannot be read, 2 a mistake in the settings.`

const inspectExample = `  sign-submit inspect registry.example.org/team/app:1.4
  sign-submit inspect registry.example.org/team/app:1.4 --sigstore-pubkey cosign.pub --output json
  sign-submit inspect registry.example.org/team/app:sha256-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.sig --raw`

// reading are the settings of a command that reads images and signs none.
type reading struct {
	config.Signing `mapstructure:",squash"`
	PublicKeys     []string `mapstructure:"sigstore-pubkey"`
	Output         string   `mapstructure:"output"`

	source *config.Source
	log    *zap.Logger
}

// readingFlags are those of access to registries, and of the keys to verify with.
func readingFlags(flags *pflag.FlagSet) {
	flags.StringSliceP("sigstore-pubkey", "p", nil, "PEM `file` with the public key, or a private key, whose public half is taken, or the URI of a key in a KMS; may be repeated")
	flags.StringSlice("sigstore-passphrase-file", nil, "`file` with the passphrase of a private key among them: one for all, or one for each, in the same order")
	flags.Duration("timeout", 10*time.Minute, "bound on the reading of one image, not counting the waiting for its turn")
	takeFlags(flags, "tls-verify", "authfile", "cert-dir", "host-requests", "host-rate", "max-wait")
	aloneFlags(flags)
}

// check holds the settings to what can be obeyed.
func (r *reading) check(source *config.Source, std streams) error {
	r.source, r.log = source, telemetry.NewLogger(std.err, telemetry.LogOptions{Debug: r.Debug})
	switch {
	case r.HostRequests < 1:
		return fmt.Errorf("host-requests: %d is less than 1", r.HostRequests)
	case !(r.HostRate >= 0): // nor NaN
		return fmt.Errorf("host-rate: %v is no number of requests a second; 0 is no limit", r.HostRate)
	case r.Timeout <= 0:
		return fmt.Errorf("timeout: %s leaves no time to read an image", r.Timeout)
	}
	return nil
}

// publicKeys opens the keys to verify with.
func (r *reading) publicKeys(ctx context.Context, std streams) ([]*sign.PublicKey, error) {
	var keys []*sign.PublicKey
	files := 0 // that may want a passphrase
	for _, path := range r.PublicKeys {
		nth := files
		if !kms.IsURI(path) {
			files++
		}
		key, err := station.PublicKey(ctx, path, func() ([]byte, error) {
			file, err := r.passphraseFile(nth)
			if err != nil {
				return nil, err
			}
			return config.Passphrase(ctx, config.KeyFile{Path: path, Passphrase: file}, std.in, std.err)
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Canceled
			}
			return nil, station.Mistake(err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (r *reading) passphraseFile(i int) (string, error) {
	switch files := r.PassphraseFiles; len(files) {
	case 0:
		return "", nil
	case 1:
		return files[0], nil
	case len(config.Files(r.PublicKeys)):
		return files[i], nil
	}
	return "", fmt.Errorf("sigstore-passphrase-file: %d files for %d of sigstore-pubkey: give one for all, or one for each in the same order",
		len(r.PassphraseFiles), len(config.Files(r.PublicKeys)))
}

// client is the access to registries.
func (r *reading) client() (*registry.Client, error) {
	o := r.Registry(r.source, "signfleet/"+station.Version(), r.log)
	o.ReadOnly = true
	client, err := registry.New(o)
	if err != nil {
		return nil, program.UsageError{Err: fmt.Errorf("set up access to registries: %w", err)}
	}
	return client, nil
}

// limited bounds the work on one image.
func (r *reading) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, _, stop := deadline.With(ctx, deadline.Limits{Work: r.Timeout, Wait: r.MaxWait})
	return ctx, stop
}

// inspecting are the settings of inspect. What is chosen is not for the
// configuration to say: that is about what is signed.
type inspecting struct {
	reading `mapstructure:",squash"`
	Raw     bool `mapstructure:"raw"`

	image     string
	platforms []string
	recursive bool
}

func inspectCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "inspect IMAGE", Short: "Show the signatures of an image", Long: inspectLong, Example: inspectExample,
		Args: oneImage,
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := readInspecting(cmd.Flags(), args[0], std)
			if err != nil {
				return err
			}
			return i.run(cmd.Context(), std)
		},
	}
	flags := command.Flags()
	flags.StringSliceP("arch", "a", nil, "architectures to show; default: all")
	flags.StringSlice("os", nil, "operating systems to show; default: all")
	flags.Bool("recursive", false, "show all that an index holds: attestations, and what the indexes in it hold")
	flags.Bool("raw", false, "print the manifest as it is stored, and nothing else")
	readingFlags(flags)
	outputFlag(flags, "what was found", outputText, outputJSON)
	return command
}

func oneImage(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return fmt.Errorf("%s needs an image: sign-submit %s", cmd.Name(), cmd.Use)
	case len(args) > 1:
		return fmt.Errorf("%s takes one image, and %q is one too many", cmd.Name(), args[1])
	}
	return nil
}

func readInspecting(flags *pflag.FlagSet, image string, std streams) (*inspecting, error) {
	i := &inspecting{image: image}
	source, err := readSource(flags, i)
	if err != nil {
		return nil, err
	}
	architectures, err := flags.GetStringSlice("arch")
	systems, osErr := flags.GetStringSlice("os")
	recursive, recursiveErr := flags.GetBool("recursive")
	if err := errors.Join(err, osErr, recursiveErr, i.check(source, std), checkOutput(i.Output, outputText, outputJSON)); err != nil {
		return nil, program.UsageError{Err: err}
	}
	i.platforms, i.recursive = platforms(systems, architectures), recursive
	return i, nil
}

func (i *inspecting) run(ctx context.Context, std streams) error {
	keys, err := i.publicKeys(ctx, std)
	if err != nil {
		return err
	}
	client, err := i.client()
	if err != nil {
		return err
	}
	defer client.Close()
	inspector, err := sign.NewInspector(sign.InspectorOptions{Registry: client, Keys: keys, Recursive: i.recursive})
	if err != nil {
		return err
	}
	limited, stop := i.limited(ctx)
	defer stop()
	if i.Raw {
		manifest, err := inspector.Raw(limited, i.image)
		if err != nil {
			return unreadable(ctx, err)
		}
		_, err = std.out.Write(manifest)
		return err
	}
	found, err := inspector.Inspect(limited, sign.Request{Reference: i.image, Platforms: i.platforms})
	if err != nil {
		return unreadable(ctx, err)
	}
	if i.Output == outputJSON {
		return printJSON(std.out, found)
	}
	return printInspection(std.out, found)
}

// unreadable sorts out mistakes in what was asked for.
func unreadable(ctx context.Context, err error) error {
	var reference *sign.ReferenceError
	var platform *sign.PlatformError
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case errors.Is(err, context.Canceled):
		// Its own limits have ended it, and nobody has interrupted it.
		return fmt.Errorf("%s", err) //nolint:errorlint // for that it must not be in the chain
	case errors.As(err, &reference), errors.As(err, &platform):
		return program.UsageError{Err: err}
	}
	return err
}

// printInspection shows an image, and under each of its digests the signatures.
func printInspection(out io.Writer, i sign.Inspection) error {
	w := &strings.Builder{}
	say(w, "image   %s\ndigest  %s\ntype    %s\n", printable(i.Reference), i.Digest, printable(i.MediaType))
	if i.NotSigned != "" {
		say(w, "note    nothing to sign: %s\n", printable(i.NotSigned))
	}
	for _, d := range i.Digests {
		say(w, "\n%s\n", strings.TrimSpace(printable(d.Platform)+" "+d.Digest))
		if len(d.Signatures) == 0 {
			say(w, "  no signature\n")
			continue
		}
		for _, found := range d.Signatures {
			printFound(w, found)
		}
	}
	_, err := io.WriteString(out, w.String())
	return err
}

// printFound shows one signature, with what else is known of it below.
func printFound(w io.Writer, f sign.Found) {
	say(w, "  %s\n", foundText(f))
	if f.Attachment != "" {
		say(w, "    attachment  %s\n", f.Attachment)
	}
	if f.Identity != "" {
		say(w, "    identity    %s\n", printable(f.Identity))
	}
	for _, key := range slices.Sorted(maps.Keys(f.Annotations)) {
		say(w, "    annotation  %s=%s\n", printable(key), printable(f.Annotations[key]))
	}
	if f.AnnotationsCut {
		say(w, "    annotation  … and more\n")
	}
	if f.Hidden {
		say(w, "    hidden      cosign verify, from version 3, looks at the bundles of this digest and not at this\n")
	}
}

// foundText is what a signature is, in a line.
func foundText(f sign.Found) string {
	key := "key unknown"
	switch {
	case f.Verified:
		key = "key " + f.Key
	case f.Key != "":
		key = "key " + f.Key + " (claimed, not verified)"
	}
	switch {
	case f.Problem != "" && f.Attachment == "":
		return fmt.Sprintf("%s: %s", f.Format, printable(f.Problem))
	case f.Problem != "":
		return fmt.Sprintf("%s, broken: %s", f.Format, printable(f.Problem))
	case f.Attests != "":
		return fmt.Sprintf("%s, no signature: a bundle that attests %s, %s", f.Format, printable(f.Attests), key)
	}
	return fmt.Sprintf("%s, %s", f.Format, key)
}
