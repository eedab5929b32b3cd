package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"

	docker "github.com/distribution/reference"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

// VerifierOptions are what a [Verifier] is made of. Registry and Keys must be
// set.
type VerifierOptions struct {
	Registry *registry.Client
	Keys     []*PublicKey
	// Formats are all needed. None: one signature is enough, in whichever.
	Formats []Format
	// Identities are what images are called, as when they were signed; none: by
	// their own names. ExactRepository stands in place of all that.
	Identities      []IdentityRule
	ExactRepository string
	// Annotations are claims that a signature has to make.
	Annotations map[string]string

	SkipIndex bool // the index itself need not be signed
	Recursive bool // everything in an index has to be, whatever the platforms

	Log *zap.Logger // default none
}

// Validate names the first option that is missing or wrong.
func (o VerifierOptions) Validate() error {
	if o.Registry == nil {
		return errors.New("option Registry is missing")
	}
	return o.validateRest()
}

func (o VerifierOptions) validateRest() error {
	switch {
	case len(o.Keys) == 0 || slices.Contains(o.Keys, nil):
		return errors.New("option Keys is empty or has an empty entry")
	case o.SkipIndex && o.Recursive:
		return errors.New("skip-index and recursive do not go together: recursive looks at all there is")
	}
	if err := checkFormats(o.Formats); err != nil {
		return err
	}
	if o.ExactRepository == "" {
		return nil
	}
	named, err := docker.ParseNormalizedNamed(o.ExactRepository)
	switch {
	case err != nil || !docker.IsNameOnly(named):
		return fmt.Errorf("exact-repository: %q is no repository: write registry/path/name, without a tag", o.ExactRepository)
	case len(o.Identities) > 0:
		return errors.New("exact-repository and identity do not go together: both say what the signatures have to call the image")
	case slices.Equal(o.Formats, []Format{FormatReferrer}):
		return errors.New("exact-repository does not go with the format referrer: bundles name no repository")
	}
	return nil
}

// Verdict is what the signatures of one manifest come to.
type Verdict string

// The verdicts, from the best to the worst. Of several signatures the best one
// counts.
const (
	// Valid is a signature by one of the keys, for this name.
	Valid Verdict = "valid"
	// WrongIdentity is one by a key that calls the image something else.
	WrongIdentity Verdict = "wrong-identity"
	// MissingAnnotation is one that does not claim what it has to.
	MissingAnnotation Verdict = "missing-annotation"
	// Broken is something in the place of a signature that is none.
	Broken Verdict = "broken"
	// OtherKey is a signature that none of the keys verifies.
	OtherKey Verdict = "other-key"
	// NoSignature is nothing at all.
	NoSignature Verdict = "no-signature"
)

var verdicts = []Verdict{Valid, WrongIdentity, MissingAnnotation, Broken, OtherKey, NoSignature}

// Verification is what the signatures of an image come to.
type Verification struct {
	Digest  string           // of the image
	Digests []VerifiedDigest // of each manifest selected, the index first
	Skipped string           // the reason, when there was nothing to verify
}

// VerifiedDigest is what the signatures of one manifest come to.
type VerifiedDigest struct {
	Digest   string  `json:"digest"`
	Platform string  `json:"platform,omitempty"` // "index" for the index
	Verdict  Verdict `json:"verdict"`
	// Reason says it for people, when the verdict is not [Valid].
	Reason string `json:"reason,omitempty"`
	// Hidden tells that cosign verify, from version 3, will not find the valid
	// signature, since it is under a tag and a bundle by another key is there.
	Hidden     bool     `json:"hidden,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
	Signatures []Found  `json:"signatures"`
}

// Valid tells whether every manifest of the image is signed as it has to be.
// What was skipped is not: ask [Verification.Skipped] first.
func (v Verification) Valid() bool {
	return len(v.Digests) > 0 && !slices.ContainsFunc(v.Digests, func(d VerifiedDigest) bool { return d.Verdict != Valid })
}

// Verifier tells whether images are signed. It writes nothing, and is safe for
// concurrent use.
type Verifier struct {
	options VerifierOptions
	open    func(name string) (referrerReader, error)
}

// NewVerifier makes a verifier.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return &Verifier{options: o, open: openIn(o.Registry)}, nil
}

func openIn(client *registry.Client) func(name string) (referrerReader, error) {
	return func(name string) (referrerReader, error) { return client.Repository(name) }
}

// Verify verifies what [Signer.Sign] would sign for the same request: the index,
// and the children of the platforms asked for. An error says that it could not
// be told whether the image is signed; that it is not is no error.
func (v *Verifier) Verify(ctx context.Context, req Request) (Verification, error) {
	src, err := parseSource(req, v.options.Identities)
	if err != nil {
		return Verification{}, err
	}
	wanted, err := parsePlatforms(req.Platforms)
	if err != nil {
		return Verification{}, err
	}
	keys, err := v.keys(req.Keys)
	if err != nil {
		return Verification{}, err
	}
	repo, err := v.open(src.repository)
	if err != nil {
		return Verification{}, err
	}
	img, err := resolve(ctx, repo, src)
	if err != nil {
		return Verification{}, err
	}
	result := Verification{Digest: img.digest.String()}
	chosen, err := selectTargets(ctx, repo, img, wanted, extent{skipIndex: v.options.SkipIndex, recursive: v.options.Recursive})
	if err != nil {
		return result, err
	}
	if err := checkTargets(img, chosen.targets, 1); err != nil {
		return result, err
	}
	result.Skipped = chosen.skipped
	result.Digests, err = v.verifyEach(ctx, newFinder(repo, keys, v.options.Annotations), src, chosen.targets)
	return result, err
}

// keys are the keys of a request: those it names.
func (v *Verifier) keys(fingerprints []string) ([]*PublicKey, error) {
	if len(fingerprints) == 0 {
		return v.options.Keys, nil
	}
	var chosen []*PublicKey
	for _, wanted := range fingerprints {
		i := slices.IndexFunc(v.options.Keys, func(key *PublicKey) bool { return key.Fingerprint() == wanted })
		if i < 0 {
			return nil, &KeyError{Fingerprint: wanted, Err: ErrUnknownKey}
		}
		chosen = append(chosen, v.options.Keys[i])
	}
	return chosen, nil
}

// verifyEach verifies the manifests side by side.
func (v *Verifier) verifyEach(ctx context.Context, f *finder, src source, targets []target) ([]VerifiedDigest, error) {
	verified := make([]VerifiedDigest, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for i, to := range targets {
		group.Go(func() error {
			found, err := f.find(ctx, to.digest)
			if err == nil {
				v.options.Log.Debug("signatures looked at", zap.String("image", src.given), zap.Stringer("digest", to.digest), zap.Int("found", len(found)))
				verified[i], err = v.judge(to, src, found)
			}
			if err != nil {
				return fmt.Errorf("verifying %s@%s: %w", src.repository, to.digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return verified, nil
}

// judge says what the signatures of a manifest come to: the best of them in each
// format that is needed, and of these the worst.
func (v *Verifier) judge(to target, src source, found []Found) (VerifiedDigest, error) {
	d := VerifiedDigest{Digest: to.digest.String(), Platform: to.platform, Verdict: Valid, Signatures: orNone(found)}
	if len(v.options.Formats) == 0 {
		verdict, reason, err := v.best(src, found)
		if err != nil {
			return d, err
		}
		d.Verdict, d.Reason = verdict, reason
	}
	for _, format := range v.options.Formats {
		verdict, reason, err := v.best(src, slices.DeleteFunc(slices.Clone(found), func(f Found) bool { return f.Format != format }))
		if err != nil {
			return d, err
		}
		if slices.Index(verdicts, verdict) > slices.Index(verdicts, d.Verdict) {
			d.Verdict, d.Reason = verdict, fmt.Sprintf("%s: %s", format, reason)
		}
	}
	if d.Verdict == Valid {
		v.warn(&d, src)
	}
	return d, nil
}

// best is the verdict of the best signature, with the reason of the first one
// that is as good. Where it could not be read whether there is a valid one,
// nothing is said of the rest.
func (v *Verifier) best(src source, found []Found) (Verdict, string, error) {
	best, reason := NoSignature, "no signature"
	var unread error
	named := false // a key, in the reason
	for _, f := range found {
		verdict, why := v.verdict(src, f)
		switch {
		case f.foreign:
		case f.unread != nil:
			unread = errors.Join(unread, f.unread)
		case slices.Index(verdicts, verdict) < slices.Index(verdicts, best),
			verdict == OtherKey && best == OtherKey && f.Key != "" && !named:
			best, reason, named = verdict, why, f.Key != ""
		}
	}
	if best == Valid {
		return Valid, "", nil
	}
	return best, reason, unread
}

// verdict is that of one signature.
func (v *Verifier) verdict(src source, f Found) (Verdict, string) {
	switch {
	case f.foreign:
		return NoSignature, "no signature"
	case f.Problem != "":
		return Broken, "broken: " + f.Problem
	case f.Attests != "":
		return NoSignature, "no signature"
	case !f.Verified && f.Key != "":
		return OtherKey, fmt.Sprintf("signed by another key (%s)", f.Key)
	case !f.Verified:
		return OtherKey, "signed by another key (unknown)"
	case f.Format == FormatTag && !v.names(src, f.Identity):
		return WrongIdentity, fmt.Sprintf("wrong identity: it is signed as %q", f.Identity)
	case !f.claimed:
		return MissingAnnotation, "missing annotation: " + lackingClaim(f.Annotations, v.options.Annotations)
	}
	return Valid, ""
}

// lackingClaim says which claim a signature does not make.
func lackingClaim(made, wanted map[string]string) string {
	for _, key := range sortedKeys(wanted) {
		if has, ok := made[key]; !ok {
			return fmt.Sprintf("it does not claim %s=%s", key, wanted[key])
		} else if has != wanted[key] {
			return fmt.Sprintf("it claims %s=%.128s and not %s", key, has, wanted[key])
		}
	}
	return "it does not claim all that it has to as text"
}

// names tells whether a signature that calls the image so is one for it: by the
// rules of containers/image, matchRepoDigestOrExact for the name that the image
// was asked for by, and matchExactRepository where a repository is given.
func (v *Verifier) names(src source, identity string) bool {
	signed, err := docker.ParseNormalizedNamed(identity)
	if err != nil {
		return false
	}
	if v.options.ExactRepository != "" {
		exact, err := docker.ParseNormalizedNamed(v.options.ExactRepository)
		return err == nil && signed.Name() == exact.Name()
	}
	return slices.ContainsFunc(src.identities, func(name string) bool {
		intended, err := docker.ParseNormalizedNamed(name)
		if err != nil {
			return false
		}
		if _, tagged := intended.(docker.NamedTagged); !tagged && !docker.IsNameOnly(intended) {
			// By digest: that the signature is for it was seen already.
			return signed.Name() == intended.Name() && !docker.IsNameOnly(signed)
		}
		return signed.String() == intended.String()
	})
}

// warn tells what readers of a valid signature may stumble over.
func (v *Verifier) warn(d *VerifiedDigest, src source) {
	tagged, bundled := false, false
	for _, f := range d.Signatures {
		if verdict, _ := v.verdict(src, f); verdict == Valid {
			tagged, bundled = tagged || f.Format == FormatTag, bundled || f.Format == FormatReferrer
			d.Hidden = d.Hidden || f.Hidden
		}
		if f.stops {
			d.Warnings = append(d.Warnings, "podman, skopeo and CRI-O do not get to the signature: "+f.Problem)
		}
		if f.Format == FormatReferrer && f.Problem != "" && (f.unread != nil || f.Attachment == "") {
			d.Warnings = append(d.Warnings, "whether a bundle hides the signature is not known: "+f.Problem)
		}
	}
	if d.Hidden = d.Hidden && tagged && !bundled; d.Hidden {
		d.Warnings = append(d.Warnings, "cosign verify, from version 3, does not find the signature: it looks at bundles alone where there is one")
	}
}

// orNone is for lists that are to be written as such even when they are empty.
func orNone(found []Found) []Found {
	if found == nil {
		return []Found{}
	}
	return found
}
