package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/internal/sign"
)

// signatureFlags defines the flags that say what the signatures are.
func signatureFlags(flags *pflag.FlagSet) {
	flags.StringSlice("format", []string{string(sign.FormatTag)}, "`format` of the signatures: tag, referrer, or both: tag,referrer")
	flags.StringSlice("identity", nil, "`prefix=replacement`: what the signatures call images whose name begins with prefix, as mirror.example.org/hub=docker.io; may be repeated: an image gets a signature for each that fits")
	flags.StringArray("annotation", nil, "`key=value` that the signatures claim beside the image; may be repeated")
	flags.Bool("record-creation-timestamp", false, "record when signatures are made; what is signed already is then not always seen at once")
	flags.StringSlice("replace-key", nil, "`fingerprint` of an old key whose signatures go where ours come; its public key is needed too: --replace-pubkey; may be repeated")
	flags.StringSlice("replace-pubkey", nil, "PEM `file` with the public key of a --replace-key; may be repeated")
	flags.Bool("skip-index", false, "sign the images of an index, but not the index itself")
	flags.Bool("recursive", false, "sign all that an index holds, attestations too, whatever the platforms asked for")
	flags.Bool("immutable-fallback", false, "attach as a referrer where the registry does not let the signature tag be changed")
	flags.Bool("report-hidden", false, "look, with one more request a digest, whether cosign verify 3 passes the signatures over, and report it")
	flags.String("confirm-writes", string(sign.ConfirmAuto), "read signatures back: auto (where others sign too), always or never")
}

// Sign are the options of the signer that say what the signatures are. Keys,
// and those that are replaced, are the caller's to add.
func (s Signing) Sign() (sign.Options, error) {
	o := sign.Options{
		ConfirmWrites: sign.ConfirmWrites(s.ConfirmWrites), Timestamps: s.Timestamps,
		SkipIndex: s.SkipIndex, Recursive: s.Recursive,
		ImmutableFallback: s.ImmutableFallback, ReportHidden: s.ReportHidden,
	}
	if !slices.Contains([]sign.ConfirmWrites{sign.ConfirmAuto, sign.ConfirmAlways, sign.ConfirmNever}, o.ConfirmWrites) {
		return o, fmt.Errorf("confirm-writes: %q is none of auto, always, never", s.ConfirmWrites)
	}
	if s.SkipIndex && s.Recursive {
		return o, errors.New("skip-index and recursive do not go together: recursive signs all there is")
	}
	var err error
	if o.Formats, err = formats(s.Formats); err != nil {
		return o, err
	}
	if o.Identities, err = identities(s.Identities); err != nil {
		return o, err
	}
	o.Annotations, err = s.annotations()
	return o, err
}

// formats are in one order, however they were given: it decides nothing.
func formats(words []string) ([]sign.Format, error) {
	formats, err := sign.ParseFormats(strings.Join(words, ","))
	if err != nil {
		return nil, err
	}
	slices.Sort(formats)
	slices.Reverse(formats) // tag first, the default
	return formats, nil
}

func identities(texts []string) ([]sign.IdentityRule, error) {
	var rules []sign.IdentityRule
	for _, text := range texts {
		rule, err := sign.ParseIdentityRule(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

func (s Signing) annotations() (map[string]string, error) {
	claims := make(map[string]string, len(s.Annotations))
	for _, text := range s.Annotations {
		key, value, err := sign.ParseAnnotation(text)
		if err != nil {
			return nil, err
		}
		if other, ok := claims[key]; ok && other != value {
			return nil, fmt.Errorf("annotation %s: it is given as %q and as %q", key, other, value)
		}
		claims[key] = value
	}
	return claims, nil
}
