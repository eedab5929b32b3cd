package sign

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

// InspectorOptions are what an [Inspector] is made of. Registry must be set.
type InspectorOptions struct {
	Registry *registry.Client
	// Keys tell whose signatures there are. Without them bundles tell whom they
	// claim to be by, and signatures under a tag nothing.
	Keys []*PublicKey
	// Recursive looks at all that an index holds, attestations too.
	Recursive bool
}

// Inspection is an image with its signatures.
type Inspection struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	// NotSigned is why the image is none that is signed, if it is none.
	NotSigned string            `json:"not_signed,omitempty"`
	Digests   []InspectedDigest `json:"digests"`
}

// InspectedDigest is one manifest of an image with its signatures.
type InspectedDigest struct {
	Digest     string  `json:"digest"`
	Platform   string  `json:"platform,omitempty"` // "index" for the index
	MediaType  string  `json:"media_type"`
	Signatures []Found `json:"signatures"`
}

// Inspector shows the signatures of images. It is safe for concurrent use.
type Inspector struct {
	options InspectorOptions
	open    func(name string) (referrerReader, error)
}

// NewInspector makes an inspector.
func NewInspector(o InspectorOptions) (*Inspector, error) {
	if o.Registry == nil {
		return nil, errors.New("option Registry is missing")
	}
	return &Inspector{options: o, open: openIn(o.Registry)}, nil
}

// Inspect looks at an image and everything that is attached to its manifests. A
// signature that is broken is shown as such.
func (i *Inspector) Inspect(ctx context.Context, req Request) (Inspection, error) {
	src, err := parseSource(req, nil)
	if err != nil {
		return Inspection{}, err
	}
	wanted, err := parsePlatforms(req.Platforms)
	if err != nil {
		return Inspection{}, err
	}
	repo, err := i.open(src.repository)
	if err != nil {
		return Inspection{}, err
	}
	img, err := resolve(ctx, repo, src)
	if err != nil {
		return Inspection{}, err
	}
	result := Inspection{Reference: src.given, Digest: img.digest.String(), MediaType: img.mediaType}
	chosen, err := i.choose(ctx, repo, img, wanted)
	if err != nil {
		return result, err
	}
	if result.NotSigned = chosen.skipped; len(chosen.targets) == 0 && img.notAnImage() != "" {
		// Others sign what we do not, and that can be seen.
		chosen.targets = []target{img.target("")}
	}
	if err := checkTargets(img, chosen.targets, 1); err != nil {
		return result, err
	}
	result.Digests, err = inspectEach(ctx, newFinder(repo, i.options.Keys, nil), chosen.targets)
	return result, err
}

// choose chooses what to look at: with no platforms given all there are, and of
// an image without an index its platform is read too.
func (i *Inspector) choose(ctx context.Context, repo imageReader, img resolved, wanted platforms) (selection, error) {
	if img.kind != manifestKind || len(wanted) > 0 {
		return selectTargets(ctx, repo, img, wanted, extent{recursive: i.options.Recursive})
	}
	all := platforms{{os: anyPart, arch: anyPart, variant: anyPart}}
	chosen, err := selectTargets(ctx, repo, img, all, extent{})
	if err != nil && ctx.Err() == nil {
		// An image whose config cannot be read has signatures all the same.
		return selectTargets(ctx, repo, img, nil, extent{})
	}
	return chosen, err
}

// inspectEach looks at the manifests side by side.
func inspectEach(ctx context.Context, f *finder, targets []target) ([]InspectedDigest, error) {
	inspected := make([]InspectedDigest, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for i, to := range targets {
		group.Go(func() error {
			found, err := f.find(ctx, to.digest)
			inspected[i] = InspectedDigest{
				Digest: to.digest.String(), Platform: to.platform, MediaType: to.mediaType, Signatures: orNone(found),
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return inspected, nil
}

// Raw is the manifest that a reference leads to as it is stored, whatever it is:
// of an image, or of what is attached to one. A digest in the reference is held
// to it.
func (i *Inspector) Raw(ctx context.Context, reference string) ([]byte, error) {
	src, err := parseSource(Request{Reference: reference}, nil)
	if err != nil {
		return nil, err
	}
	repo, err := i.open(src.repository)
	if err != nil {
		return nil, err
	}
	found, err := repo.Manifest(ctx, src.lookup)
	if err != nil {
		return nil, err
	}
	for _, pin := range src.pins {
		if is := pin.Algorithm().FromBytes(found.Body); is != pin {
			return nil, &MismatchError{Reference: reference, Pinned: pin, Found: is}
		}
	}
	return found.Body, nil
}
