package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/registry"
)

// Format is the way in which signatures are attached to an image.
type Format string

const (
	// FormatTag attaches signatures under the tag sha256-<hex>.sig, where every
	// version of cosign and containers/image finds them.
	FormatTag Format = "tag"
	// FormatReferrer attaches Sigstore bundles that refer to the image (OCI 1.1),
	// as cosign 3 does. containers/image does not read them.
	FormatReferrer Format = "referrer"
)

// ParseFormats reads one format, or several separated by commas.
func ParseFormats(text string) ([]Format, error) {
	var formats []Format
	for name := range strings.SplitSeq(text, ",") {
		formats = append(formats, Format(strings.TrimSpace(name)))
	}
	return formats, checkFormats(formats)
}

func checkFormats(formats []Format) error {
	for i, format := range formats {
		if format != FormatTag && format != FormatReferrer {
			return fmt.Errorf("format: %q is neither tag nor referrer; both are tag,referrer", format)
		}
		if slices.Contains(formats[:i], format) {
			return fmt.Errorf("format: %q is there twice", format)
		}
	}
	return nil
}

// attachTagged attaches signatures in the format "tag", or in the other where
// that is impossible and allowed.
func (s *Signer) attachTagged(ctx context.Context, p piece) ([]Signature, error) {
	t, err := s.newTagged(p)
	if err != nil {
		return nil, err
	}
	attached, err := s.attach(ctx, p.repo, t)
	var immutable *ImmutableError
	if errors.As(err, &immutable) && s.options.ImmutableFallback {
		return s.fallBack(ctx, p, immutable.Attachment)
	}
	if err == nil && s.options.ConfirmWrites == ConfirmAlways {
		err = t.mend(ctx)
	}
	if err != nil {
		return nil, err
	}
	return s.reportHidden(ctx, p, t.results(attached)), nil
}

// fallBack attaches a referrer in place of what an immutable tag cannot take.
func (s *Signer) fallBack(ctx context.Context, p piece, attachment string) ([]Signature, error) {
	if slices.Contains(s.options.Formats, FormatReferrer) {
		return nil, nil // that is done already
	}
	signed, err := s.attachReferring(ctx, p)
	if err == nil && slices.ContainsFunc(signed, func(one Signature) bool { return !one.Already }) {
		s.options.Log.Info("attached as a referrer, since the tag must not be changed: cosign verify, from version 3, now looks at the bundles alone",
			zap.String("attachment", attachment))
	}
	return signed, err
}

// reportHidden marks signatures under a tag that cosign 3 will not look at.
func (s *Signer) reportHidden(ctx context.Context, p piece, signed []Signature) []Signature {
	if !s.options.ReportHidden || slices.Contains(s.options.Formats, FormatReferrer) {
		return signed
	}
	hidden, err := hiddenKeys(ctx, p.repo, p.digest, p.keys)
	if err != nil {
		// The image is signed all the same.
		s.options.Log.Warn("cannot tell whether a bundle hides the signatures", zap.String("manifest", p.repo.Name()+"@"+p.digest.String()), zap.Error(err))
	}
	for i := range signed {
		signed[i].Hidden = slices.Contains(hidden, signed[i].Key)
	}
	return signed
}

// attachReferring attaches signatures in the format "referrer".
func (s *Signer) attachReferring(ctx context.Context, p piece) ([]Signature, error) {
	r := s.newReferring(p)
	err := s.attachBundles(ctx, p, r)
	if err == nil && s.options.ConfirmWrites == ConfirmAlways {
		err = r.confirmStored(ctx)
	}
	if err != nil {
		return nil, err
	}
	return r.results(), nil
}

// attachBundles attaches bundles by the registry itself where it lists referrers,
// else in an index. Which of both it is may turn out to be otherwise than it
// seemed, with what is asked or written meanwhile.
func (s *Signer) attachBundles(ctx context.Context, p piece, r *referring) error {
	var changed error
	for range maxTurns {
		api, err := p.repo.HasReferrersAPI(ctx, p.digest)
		if err != nil {
			return err
		}
		if api {
			err = r.attachByAPI(ctx)
		} else {
			_, err = s.attach(ctx, p.repo, r)
		}
		switch {
		case errors.Is(err, registry.ErrNoReferrersAPI), errors.Is(err, errListsReferrers):
			changed = err
			continue
		case err != nil || !api:
			return err
		}
		if still, err := p.repo.HasReferrersAPI(ctx, p.digest); err != nil || still {
			return err
		}
	}
	return &ConflictError{Attachment: p.repo.Name() + "@" + p.digest.String(), Reason: "the registry lists referrers at one time, and at another not", Err: changed}
}
