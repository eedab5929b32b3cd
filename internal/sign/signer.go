// Package sign signs container images: it resolves a reference to a manifest,
// selects what of it is to be signed, signs that, and attaches the signatures
// in the registry where cosign and containers/image look for them. Signing
// again what is signed already writes nothing.
//
// It decides what is an image and what is not, what a payload says, when two
// signatures are the same, and how to write to a tag that others write to as
// well. It does not know who asks for the signing, what becomes of an error,
// nor how bytes travel to a registry.
package sign

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

// maxParallel bounds how many manifests of one image are signed side by side.
const maxParallel = 8

// Request asks for one image to be signed.
type Request struct {
	Reference string   // host/repo:tag, host/repo@digest or host/repo:tag@digest
	Digest    string   // optional: what the image must be
	Platforms []string // os/arch[/variant], "*" for any part; empty means all
	Keys      []string // fingerprints; empty means all keys of the signer
	Identity  string   // optional: docker-reference of the payload
}

// Result is what became of a request.
type Result struct {
	Digest  string      // of the image
	Signed  []Signature // of each manifest selected, the index first
	Skipped string      // the reason, when there was nothing to sign
	Timings Timings     // also of a failure
}

// Signature is one signature of one manifest.
type Signature struct {
	Digest     string // of the manifest
	Platform   string // "index" for the index; empty when no platform was asked for or said
	Key        string // fingerprint
	Format     string
	Attachment string // digest of what carries the signature
	Already    bool   // it was there before
	Identity   string // what the image is called in it; only where there are several
	// Hidden tells that cosign verify, from version 3, does not look at the
	// signature, because the manifest has a bundle too. Only with ReportHidden.
	Hidden bool
}

// Signer signs images. It is safe for concurrent use.
type Signer struct {
	options Options
	open    func(name string) (attachmentStore, error)
	jitter  func() float64 // from 0 up to 1
	stages  *stages
}

// imageReader reads images.
type imageReader interface {
	Manifest(ctx context.Context, reference string) (registry.Manifest, error)
	Blob(ctx context.Context, d digest.Digest, limit int64) ([]byte, error)
}

// New makes a signer.
func New(o Options) (*Signer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return newSigner(o, func(name string) (attachmentStore, error) {
		// What a user has switched off for a scope is not done behind his back.
		if err := o.Registry.AttachmentsAllowed(name); err != nil {
			return nil, err
		}
		return o.Registry.Repository(name)
	})
}

func newSigner(o Options, open func(name string) (attachmentStore, error)) (*Signer, error) {
	if err := o.validateRest(); err != nil {
		return nil, err
	}
	stages, err := newStages(o.Meters, o.Tracers)
	if err != nil {
		return nil, fmt.Errorf("signing metrics: %w", err)
	}
	return &Signer{options: o.withDefaults(), open: open, jitter: rand.Float64, stages: stages}, nil
}

// Sign signs an image. With an error, the result still says what was signed
// until then.
func (s *Signer) Sign(ctx context.Context, req Request) (result Result, err error) {
	src, err := parseSource(req, s.options.Identities)
	if err != nil {
		return Result{}, err
	}
	wanted, err := parsePlatforms(req.Platforms)
	if err != nil {
		return Result{}, err
	}
	keys, err := s.keys(req.Keys)
	if err != nil {
		return Result{}, err
	}
	repo, err := s.open(src.repository)
	if err != nil {
		return Result{}, err
	}

	ctx, watch := s.stages.watched(ctx)
	img, chosen, err := s.resolve(ctx, repo, src, wanted)
	result = Result{Digest: img.digest.String(), Skipped: chosen.skipped, Timings: watch.timings(0)}
	if err != nil {
		return result, err
	}
	if err := checkTargets(img, chosen.targets, s.signaturesOf(src, keys)); err != nil {
		return result, err
	}
	if err := s.allowed(ctx, img, chosen); err != nil {
		return result, err
	}
	attaching := time.Now()
	result.Signed, err = s.signEach(ctx, piecesOf(repo, src, chosen.targets, keys))
	result.Timings = watch.timings(time.Since(attaching))
	return result, err
}

// resolve reads what the image is, and what of it is to be signed.
func (s *Signer) resolve(ctx context.Context, repo imageReader, src source, wanted platforms) (img resolved, chosen selection, err error) {
	ctx, end := begin(ctx, stageResolve)
	defer func() { end(err) }()
	if img, err = resolve(ctx, repo, src); err != nil {
		return img, selection{}, err
	}
	chosen, err = selectTargets(ctx, repo, img, wanted, extent{skipIndex: s.options.SkipIndex, recursive: s.options.Recursive})
	return img, chosen, err
}

// allowed asks whether the image may be signed; nobody minds an image of which
// nothing is.
func (s *Signer) allowed(ctx context.Context, img resolved, chosen selection) (err error) {
	if s.options.Gate == nil || len(chosen.targets) == 0 {
		return nil
	}
	ctx, end := begin(ctx, stagePolicy)
	defer func() { end(err) }()
	return s.options.Gate.Allow(ctx, img.named(), img.digest)
}

// keys are the keys of a request: those it names, in the signer's order.
func (s *Signer) keys(fingerprints []string) ([]*Key, error) {
	if len(fingerprints) == 0 {
		return s.options.Keys, nil
	}
	var chosen []*Key
	for _, key := range s.options.Keys {
		if slices.Contains(fingerprints, key.Fingerprint()) {
			chosen = append(chosen, key)
		}
	}
	for _, wanted := range fingerprints {
		if !slices.ContainsFunc(chosen, func(key *Key) bool { return key.Fingerprint() == wanted }) {
			return nil, &KeyError{Fingerprint: wanted, Err: ErrUnknownKey}
		}
	}
	return chosen, nil
}

// signaturesOf is how many signatures each manifest gets. One whose identity has
// to be told counts twice: what is told of an image has to fit into a message.
func (s *Signer) signaturesOf(src source, keys []*Key) int {
	each := 0
	for _, format := range s.options.Formats {
		switch {
		case format == FormatReferrer:
			each++
		case len(src.identities) > 1:
			each += 2 * len(src.identities)
		default:
			each++
		}
	}
	return each * len(keys)
}

// piece is one manifest of an image, and what it is to be signed with.
type piece struct {
	target
	repo       attachmentStore
	identities []string
	keys       []*Key
}

func piecesOf(repo attachmentStore, src source, targets []target, keys []*Key) []piece {
	pieces := make([]piece, 0, len(targets))
	for _, to := range targets {
		pieces = append(pieces, piece{target: to, repo: repo, identities: src.identities, keys: keys})
	}
	return pieces
}

// signEach signs the manifests side by side. After a failure no further one is
// begun, but those under way go on: a write that is cut leaves it open whether
// it happened.
func (s *Signer) signEach(ctx context.Context, pieces []piece) ([]Signature, error) {
	signed := make([][]Signature, len(pieces))
	var failed atomic.Bool
	var group errgroup.Group
	group.SetLimit(maxParallel)
	for i, p := range pieces {
		sign := guarded(func() (err error) {
			ctx, end := begin(ctx, stageAttach)
			defer func() { end(err) }()
			signed[i], err = s.signOne(ctx, p)
			return err
		})
		group.Go(func() error {
			if failed.Load() {
				return nil
			}
			if err := sign(); err != nil {
				failed.Store(true)
				return fmt.Errorf("signing %s@%s: %w", p.repo.Name(), p.digest, err)
			}
			return nil
		})
	}
	err := group.Wait()
	return slices.Concat(signed...), err
}

// signOne signs one manifest with each key, and attaches the signatures in each
// format, side by side.
func (s *Signer) signOne(ctx context.Context, p piece) ([]Signature, error) {
	signed := make([][]Signature, len(s.options.Formats))
	var group errgroup.Group
	for i, format := range s.options.Formats {
		attach := s.attachTagged
		if format == FormatReferrer {
			attach = s.attachReferring
		}
		group.Go(guarded(func() (err error) {
			signed[i], err = attach(ctx, p)
			return err
		}))
	}
	err := group.Wait()
	all := slices.Concat(signed...)
	for i := range all {
		all[i].Platform = p.platform
	}
	return all, err
}
