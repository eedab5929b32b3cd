package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/worker"
)

const validateLong = `validate tells of every image of a list whether it is signed by a key, as an index
and in each of its platforms that are asked for: what sign-submit would sign for the
same list and flags has to be signed. It writes nothing to a registry.

A signature under the .sig tag or a bundle among the referrers is enough; with
--format those that are named are all needed. A signature under a tag has to call the
image by the name in the list, as containers/image demands of those that it accepts
(matchRepoDigestOrExact), by one that --identity makes of it, or by the repository of
--exact-repository. Bundles call the image nothing.

Of what is not signed as it should be it says why: no signature, signed by another
key, wrong identity, missing annotation, or broken. These lines are written to the
failed list, ready to be signed, and all lines with --report to a report.

Exit status: 0 all images are signed, or skipped as none; 1 some are not, or could
not be read; 2 a mistake in the settings; 130 interrupted.`

const validateExample = `  sign-submit validate --file images.txt --sigstore-pubkey cosign.pub
  sign-submit validate --file images.txt --sigstore-pubkey cosign.pub --report validated.csv
  sign-submit validate --file images.txt --sigstore-pubkey cosign.pub --format tag,referrer --arch amd64,arm64`

// validating are the settings of validate.
type validating struct {
	reading      `mapstructure:",squash"`
	File         string   `mapstructure:"file"`
	Arch         []string `mapstructure:"arch"`
	OS           []string `mapstructure:"os"`
	RegistryName string   `mapstructure:"registry"`
	Project      string   `mapstructure:"project"`
	Failed       string   `mapstructure:"failed"`
	Exact        string   `mapstructure:"exact-repository"`
	Report       string   `mapstructure:"report"`
	ReportFormat string   `mapstructure:"report-format"`

	list io.ReaderAt
}

// imageVerifier tells whether an image is signed.
type imageVerifier interface {
	Verify(ctx context.Context, req sign.Request) (sign.Verification, error)
}

func validateCommand(std streams) *cobra.Command {
	command := &cobra.Command{
		Use: "validate --file LIST --sigstore-pubkey FILE", Short: "Tell whether the images of a list are signed",
		Long: validateLong, Example: validateExample, Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := readValidating(cmd.Context(), cmd.Flags(), std)
			if err != nil {
				return err
			}
			if file, ok := v.list.(io.Closer); ok {
				defer file.Close() //nolint:errcheck // a file without a name, and at its end
			}
			return v.run(cmd.Context(), std)
		},
	}
	flags := command.Flags()
	takeFlags(flags, "file", "registry", "project", "attempts", "backoff")
	flags.IntP("jobs", "j", station.Defaults(0).Jobs, "images verified at once, 1 to 256")
	flags.StringSliceP("arch", "a", []string{"amd64", "arm64"}, "architectures that have to be signed; an empty one means all")
	flags.StringSlice("os", []string{"linux"}, "operating systems that have to be signed; an empty one means all")
	flags.StringP("failed", "o", "validate-failed.txt", "`file` for the lines that are not signed as they should be")
	flags.StringSlice("format", nil, "`format` that is needed: tag, referrer, or both: tag,referrer; default: either is enough")
	flags.String("exact-repository", "", "`repository` that signatures have to call the image by, with any tag; default: as in the list")
	flags.StringSlice("identity", nil, "`prefix=replacement`: the name that the signatures have to call images by whose name begins with prefix, as for signing; may be repeated: one of the names is enough")
	flags.StringArray("annotation", nil, "`key=value` that the signature has to claim; may be repeated")
	flags.Bool("skip-index", false, "the index itself need not be signed")
	flags.Bool("recursive", false, "all that an index holds has to be signed, attestations too, whatever the platforms")
	flags.StringP("report", "r", "", "`file` for a report on every digest: json, yaml or csv by its extension")
	flags.String("report-format", "", "json, yaml or csv, whatever the extension of the report")
	readingFlags(flags)
	outputFlag(flags, "the summary", outputText, outputJSON)
	return command
}

// readValidating reads and checks what can be checked without a registry.
func readValidating(ctx context.Context, flags *pflag.FlagSet, std streams) (*validating, error) {
	v := &validating{}
	source, err := readSource(flags, v) //nolint:contextcheck // the commands whose flags it asks for are not run
	if err != nil {
		return nil, err
	}
	if err := v.check(source, std); err != nil {
		return nil, program.UsageError{Err: err}
	}
	if v.list, err = copyList(ctx, v.File, std.in); err != nil {
		if ctx.Err() != nil {
			return nil, context.Canceled
		}
		return nil, program.UsageError{Err: err}
	}
	return v, nil
}

func (v *validating) check(source *config.Source, std streams) error {
	if err := v.reading.check(source, std); err != nil {
		return err
	}
	switch {
	case v.File == "":
		return errors.New("no image list: name one with --file")
	case len(v.PublicKeys) == 0:
		return errors.New("no key to verify with: name one with --sigstore-pubkey")
	case v.Jobs < 1 || v.Jobs > maxJobs:
		return fmt.Errorf("jobs: %d is not between 1 and %d", v.Jobs, maxJobs)
	case v.Attempts < 1:
		return fmt.Errorf("attempts: %d is less than 1", v.Attempts)
	case v.Backoff < 0:
		return fmt.Errorf("backoff: %s is negative", v.Backoff)
	case v.MaxWait <= 0:
		return fmt.Errorf("max-wait: %s leaves no time to wait", v.MaxWait)
	}
	if err := checkOutput(v.Output, outputText, outputJSON); err != nil {
		return err
	}
	if err := v.lines().Validate(); err != nil {
		return err
	}
	if err := submit.CheckFailed(v.Failed, v.File, v.inputs()...); err != nil {
		return err
	}
	return v.checkReport()
}

// inputs are the files that are read beside the list.
func (v *validating) inputs() []string {
	return append(slices.Concat(v.InputFiles(), config.Files(v.PublicKeys)), v.source.File)
}

const maxJobs = 256

// lines are the options of the list.
func (v *validating) lines() imagelist.Options {
	return imagelist.Options{Registry: v.RegistryName, Project: v.Project}
}

// verifier is made of the keys and of what the signatures have to be like.
func (v *validating) verifier(ctx context.Context, std streams) (*sign.Verifier, func(), error) {
	o := sign.VerifierOptions{ExactRepository: v.Exact, SkipIndex: v.SkipIndex, Recursive: v.Recursive, Log: v.log}
	if len(v.Formats) > 0 {
		formats, err := sign.ParseFormats(strings.Join(v.Formats, ","))
		if err != nil && slices.Contains(reportFormats, v.Formats[0]) {
			err = fmt.Errorf("%w; what the report is written as is said with --report-format", err)
		}
		if err != nil {
			return nil, nil, program.UsageError{Err: err}
		}
		o.Formats = formats
	}
	asked, err := config.Signing{Identities: v.Identities, Annotations: v.Annotations, Formats: []string{string(sign.FormatTag)}, ConfirmWrites: string(sign.ConfirmAuto)}.Sign()
	if err != nil {
		return nil, nil, program.UsageError{Err: err}
	}
	o.Identities, o.Annotations = asked.Identities, asked.Annotations
	if o.Keys, err = v.publicKeys(ctx, std); err != nil {
		return nil, nil, err
	}
	if o.Registry, err = v.client(); err != nil {
		return nil, nil, err
	}
	verifier, err := sign.NewVerifier(o)
	if err != nil {
		o.Registry.Close()
		return nil, nil, program.UsageError{Err: err}
	}
	return verifier, o.Registry.Close, nil
}

// run verifies the images of the list, and tells of each in the order of the list.
func (v *validating) run(ctx context.Context, std streams) error {
	verifier, done, err := v.verifier(ctx, std)
	if err != nil {
		return err
	}
	defer done()
	report, err := newValidationReport(v.Report, v.ReportFormat)
	if err != nil {
		return program.UsageError{Err: err}
	}
	defer report.discard()
	failed := submit.NewReport()
	defer failed.Close() //nolint:errcheck // a file without a name, and at its end
	shown := newProgress(std.err)
	var counts validationCounts
	readErr := v.validateEach(ctx, verifier, func(l validatedLine) error {
		counts.add(l)
		if err := v.tell(l, shown, std); err != nil {
			return err
		}
		shown.tell(counts.progress)
		return errors.Join(report.add(l), l.list(failed))
	})
	shown.end()
	return v.conclude(ctx, readErr, counts, report, failed, std)
}

// conclude writes the lists: also of what was interrupted.
func (v *validating) conclude(ctx context.Context, readErr error, counts validationCounts, report *validationReport, failed *submit.Report, std streams) error {
	interrupted := ctx.Err() != nil
	err := readErr
	switch {
	case counts.NotDone > 0 && submit.SameFile(v.Failed, v.File):
		say(std.err, "failed list: not written, since it would replace the list that there is to go on with\n")
	default:
		written := submit.WriteFailed(v.Failed, failed)
		if written == nil && failed.Listed > 0 {
			counts.FailedList, counts.Reasons = v.Failed, submit.DetailsPath(v.Failed)
		}
		err = errors.Join(err, written)
	}
	if err == nil {
		err = report.finish(counts)
	}
	err = errors.Join(err, printValidation(std.out, v.Output, counts))
	switch {
	case interrupted:
		return interruption(std, err)
	case err != nil:
		return err
	case counts.NotValid+counts.Unreadable > 0:
		return errFailures
	}
	return nil
}

// tell shows people what is not as it should be.
func (v *validating) tell(l validatedLine, shown *progress, std streams) error {
	if v.Output != outputText {
		return nil
	}
	text := l.text()
	if text == "" {
		return nil
	}
	shown.end()
	_, err := io.WriteString(std.out, text)
	return err
}

// reader reads the list.
func (v *validating) reader() io.Reader { return io.NewSectionReader(v.list, 0, math.MaxInt64) }

// attempt verifies an image, again if that may help: a list of thousands is not
// to fail for one answer that was lost. Waiting out what a registry asks for is no
// attempt, and has an end of its own.
func (v *validating) attempt(ctx context.Context, verifier imageVerifier, line imagelist.Line) (found sign.Verification, attempts int, err error) {
	request := sign.Request{Reference: line.Reference, Digest: line.Digest, Platforms: platforms(v.OS, v.Arch)}
	pause, waited := v.Backoff, time.Duration(0)
	for attempts = 1; ; {
		began := time.Now()
		found, err = v.once(ctx, verifier, request)
		if err == nil || ctx.Err() != nil {
			return found, attempts, err
		}
		class, again, after := worker.Class(err)
		limited := class == worker.RateLimited && after > 0
		if limited {
			waited += time.Since(began) + after // an attempt of that class is mostly waiting
		}
		if !again || max(waited, after) > v.MaxWait || !limited && attempts >= v.Attempts {
			return found, attempts, err
		}
		v.log.Debug("image could not be read, it is tried again", zap.String("image", line.Reference), zap.Error(err))
		if !limited {
			attempts++
			after = max(pause, after)
			pause = min(2*pause, maxPause)
		}
		wait := time.NewTimer(after)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return found, attempts, err
		}
	}
}

const maxPause = time.Minute

func (v *validating) once(ctx context.Context, verifier imageVerifier, request sign.Request) (sign.Verification, error) {
	limited, stop := v.limited(ctx)
	defer stop()
	return verifier.Verify(limited, request)
}
