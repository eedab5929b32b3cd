package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

const (
	// indexPlatform is what stands for the platform of an index in a result.
	indexPlatform = "index"
	// buildkit marks its attestations, which look like images, by this.
	referenceTypeAnnotation = "vnd.docker.reference.type"
	// maxConfig bounds the config blob of an image; containers/image reads as much.
	maxConfig = 4 << 20
	// maxSignatures bounds the signatures of one image: what was signed is told
	// in one message, and the largest images there are have a few dozen manifests.
	maxSignatures = 2000
	maxPlatform   = 128 // bytes of its name, which stands beside each of them
	// maxDepth bounds the indexes inside each other, all of which are held at once.
	maxDepth = 8
)

// target is one manifest to sign.
type target struct {
	digest    digest.Digest
	platform  string // "index", os/arch[/variant], or empty when nobody had to know
	mediaType string
	size      int64
}

// target is the manifest itself.
func (r *resolved) target(platform string) target {
	return target{digest: r.digest, platform: platform, mediaType: r.mediaType, size: r.size}
}

// targetOf is a child of an index.
func targetOf(child oci.Descriptor) target {
	t := target{digest: child.Digest, mediaType: child.MediaType, size: child.Size}
	if child.Platform != nil {
		t.platform = platformOf(child.Platform).String()
	}
	return t
}

// selection is which manifests of an image are to be signed, or why none is.
type selection struct {
	targets []target
	skipped string
}

// extent is how much of an index is signed.
type extent struct {
	skipIndex bool // not the index itself
	recursive bool // all that is in it, whatever the platforms asked for
}

// selectTargets chooses what to sign of an image.
func selectTargets(ctx context.Context, repo imageReader, img resolved, wanted platforms, e extent) (selection, error) {
	if reason := img.notAnImage(); reason != "" {
		return selection{skipped: reason}, nil
	}
	if e.recursive {
		wanted = nil
	}
	if img.kind == indexKind && e.recursive {
		return selectAll(ctx, repo, img)
	}
	if img.kind == indexKind {
		return selectChildren(ctx, repo, img, wanted, e.skipIndex)
	}
	return selectSingle(ctx, repo, img, wanted)
}

// selectChildren chooses the index and its children of the wanted platforms.
// The index is signed for the sake of its children: without one it is not.
//
// A child that is an index itself is taken as one thing, by the platform that
// its descriptor gives: who pulls it by that platform gets this digest. What
// it holds is not descended into.
func selectChildren(ctx context.Context, repo imageReader, img resolved, wanted platforms, skipIndex bool) (selection, error) {
	listed, err := describe(ctx, repo, img, wanted)
	if err != nil {
		return selection{}, err
	}
	var targets []target
	if !skipIndex {
		targets = append(targets, img.target(indexPlatform))
	}
	children := 0
	seen := map[digest.Digest]bool{img.digest: true}
	for _, child := range listed {
		if !selectable(child, wanted) {
			continue
		}
		children++
		// One manifest may serve several platforms; it has one attachment.
		if seen[child.Digest] {
			continue
		}
		seen[child.Digest] = true
		targets = append(targets, targetOf(child))
	}
	switch {
	case children > 0:
		return selection{targets: targets}, nil
	case len(wanted) > 0:
		return selection{skipped: fmt.Sprintf("no platform of the index matches %s", wanted)}, nil
	}
	return selection{skipped: "the index holds no image"}, nil
}

// describe is what an index holds, with the platforms that the index does not
// say, as the OCI specification allows: those stand in the configs, which are
// read only if somebody asks for a platform.
func describe(ctx context.Context, repo imageReader, img resolved, wanted platforms) ([]oci.Descriptor, error) {
	if len(wanted) == 0 {
		return img.content.Manifests, nil
	}
	listed := slices.Clone(img.content.Manifests)
	reads := 0
	var group errgroup.Group
	group.SetLimit(maxParallel)
	for i, child := range listed {
		if child.Platform != nil || !isImage(child) {
			continue
		}
		if reads++; reads > maxSignatures {
			return nil, errors.Join(group.Wait(), &UnsupportedError{Reference: img.given, MediaType: img.mediaType,
				Reason: fmt.Sprintf("the index says no platform of more than %d manifests", maxSignatures)})
		}
		group.Go(guarded(func() (err error) {
			listed[i].Platform, err = readPlatform(ctx, repo, child.Digest)
			return err
		}))
	}
	return listed, group.Wait()
}

// readPlatform is the platform that a child of an index is for. It has none when
// it is no image after all, or not there: mirrors may leave out children.
func readPlatform(ctx context.Context, repo imageReader, d digest.Digest) (*oci.Platform, error) {
	child, err := resolve(ctx, repo, source{given: d.String(), lookup: d.String()})
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case child.kind == indexKind || child.notAnImage() != "":
		return nil, nil
	}
	return configPlatform(ctx, repo, child)
}

// selectAll chooses an index and everything it holds, also what its indexes
// hold: what runs nowhere, too. What an index holds stands behind it.
func selectAll(ctx context.Context, repo imageReader, img resolved) (selection, error) {
	all := everything{repo: repo, targets: []target{img.target(indexPlatform)}, seen: map[digest.Digest]bool{img.digest: true}}
	if err := all.add(ctx, img); err != nil {
		return selection{}, err
	}
	return selection{targets: all.targets}, nil
}

type everything struct {
	repo    imageReader
	targets []target
	seen    map[digest.Digest]bool
	depth   int
}

// add adds what an index holds. It ends where there is too much to go on, as
// will be said of the image.
func (e *everything) add(ctx context.Context, index resolved) error {
	e.depth++
	defer func() { e.depth-- }()
	if e.depth > maxDepth {
		return &UnsupportedError{Reference: index.given, MediaType: index.mediaType, Reason: fmt.Sprintf("there are more than %d indexes inside each other", maxDepth)}
	}
	for _, child := range index.content.Manifests {
		kind, err := kindOf("", child.MediaType)
		if err != nil || child.Digest.Validate() != nil || e.seen[child.Digest] {
			continue
		}
		if len(e.targets) > maxSignatures {
			return nil
		}
		e.seen[child.Digest] = true
		e.targets = append(e.targets, targetOf(child))
		if kind != indexKind {
			continue
		}
		inner, err := resolve(ctx, e.repo, source{given: child.Digest.String(), lookup: child.Digest.String()})
		if err != nil {
			return err
		}
		if err := e.add(ctx, inner); err != nil {
			return err
		}
	}
	return nil
}

// selectable tells whether a child of an index is an image of a wanted platform.
// One of which no platform is known is signed only when every platform is wanted.
func selectable(child oci.Descriptor, wanted platforms) bool {
	if !isImage(child) {
		return false
	}
	if child.Platform == nil {
		return len(wanted) == 0
	}
	have := platformOf(child.Platform)
	return !have.unknown() && wanted.match(have)
}

// isImage tells whether a child of an index is an image, by what the index says.
func isImage(child oci.Descriptor) bool {
	if _, err := kindOf("", child.MediaType); err != nil || child.Digest.Validate() != nil {
		return false
	}
	// Some builders repeat the type of the config here, which for an image is
	// that of an image.
	return (child.ArtifactType == "" || isImageConfig(child.ArtifactType)) && child.Annotations[referenceTypeAnnotation] == ""
}

// selectSingle chooses an image that is not part of an index. Its platform
// stands in its config, which is read only if somebody asks for the platform.
func selectSingle(ctx context.Context, repo imageReader, img resolved, wanted platforms) (selection, error) {
	if len(wanted) == 0 {
		return selection{targets: []target{img.target("")}}, nil
	}
	said, err := configPlatform(ctx, repo, img)
	if err != nil {
		return selection{}, err
	}
	have := platformOf(said)
	if !wanted.match(have) {
		return selection{skipped: fmt.Sprintf("its platform %.128q matches none of %s", have, wanted)}, nil
	}
	return selection{targets: []target{img.target(have.String())}}, nil
}

// configPlatform is the platform that the config of an image says.
func configPlatform(ctx context.Context, repo imageReader, img resolved) (*oci.Platform, error) {
	body, err := repo.Blob(ctx, img.content.Config.Digest, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the config of %s: %w", img.digest, err)
	}
	var config oci.Platform
	if err := json.Unmarshal(body, &config); err != nil {
		return nil, &UnsupportedError{Reference: img.given, MediaType: img.content.Config.MediaType,
			Reason: "the image's config is not the JSON it should be"}
	}
	return &config, nil
}

// checkTargets refuses an image as a whole of which a part cannot be signed.
// each is how many signatures a manifest gets.
func checkTargets(img resolved, targets []target, each int) error {
	refuse := func(reason string) error { return &UnsupportedError{Reference: img.given, Reason: reason} }
	if len(targets)*each > maxSignatures {
		return refuse(fmt.Sprintf("%d manifests with %d signatures each are more than the %d that one image can get",
			len(targets), each, maxSignatures))
	}
	for _, to := range targets {
		if len(to.platform) > maxPlatform {
			return refuse(fmt.Sprintf("the platform of %s has a name of more than %d bytes", to.digest, maxPlatform))
		}
		// The tag made of a longer digest is none that a registry takes.
		if algorithm := to.digest.Algorithm(); algorithm != digest.SHA256 {
			return refuse(fmt.Sprintf("the signatures of %s would have no tag, only sha256 digests can be signed", to.digest))
		}
	}
	return nil
}
