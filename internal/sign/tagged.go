package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

// tagged are the signatures of one manifest in the format "tag": a payload for
// each identity, signed by each key, in one manifest under one tag.
type tagged struct {
	*Signer
	repo     attachmentStore
	manifest digest.Digest
	each     []*tagSignature
	several  bool // identities
	replaced *replacement
	at       time.Time // to record, zero when none is to be

	present  attachment    // as it was read last
	looked   bool          // whether the attachment was seen once
	mistrust bool          // the registry lacked a blob that it should have had
	uploaded bool          // our payloads are there
	full     bool          // the registry refused the config that all attachments share
	config   []byte        // of the attachment to be written; nil keeps the one there is
	stands   digest.Digest // of the config of ours that was uploaded
}

// tagSignature is the signature of one payload by one key. It is made when it
// turns out to be missing, and only once, so that a repeated write is the same
// bytes also where a key signs differently each time.
type tagSignature struct {
	key      *Key
	identity string
	payload  []byte
	digest   digest.Digest // of the payload
	layer    *descriptor
	already  bool
}

func (s *Signer) newTagged(p piece) (*tagged, error) {
	t := &tagged{
		Signer: s, repo: p.repo, manifest: p.digest, several: len(p.identities) > 1,
		at: s.madeAt(), full: p.repo.RefusesSharedConfig(),
	}
	for _, identity := range p.identities {
		payload, err := newPayload(identity, p.digest, s.options.Annotations)
		if err != nil {
			return nil, err
		}
		for _, key := range p.keys {
			t.each = append(t.each, &tagSignature{key: key, identity: identity, payload: payload, digest: digest.FromBytes(payload)})
		}
	}
	if len(s.options.Replaced) > 0 {
		t.replaced = newReplacement(p.repo, p.digest, p.identities, s.options)
	}
	return t, nil
}

func (t *tagged) tag() string  { return attachmentTag(t.manifest) }
func (t *tagged) lock() string { return t.repo.Location() + "@" + t.manifest.String() }

func (t *tagged) read(name string, found registry.Manifest) (attachment, error) {
	a, err := readAttachment(name, found)
	t.present = a
	if constant := digest.FromString(constantConfig); err == nil && a.config == constant && !t.mistrust {
		t.repo.Holds(constant)
	}
	return a, err
}

// foreign tells whether anything is there that is not a signature by one of our
// keys: somebody else writes here. Our signatures for other tags of the image
// are told by their digest; with Ed25519, which does not sign a digest, they
// count as another's.
func (t *tagged) foreign(found attachment) bool {
	return slices.ContainsFunc(found.entries, func(layer oci.Descriptor) bool {
		ours := slices.ContainsFunc(t.each, func(one *tagSignature) bool {
			return isSignatureBy(layer, one.key.Public(), one.payload, one.digest)
		})
		return !ours && !slices.ContainsFunc(t.options.Keys, func(key *Key) bool { return isSignatureOnBlob(layer, key.Public()) })
	})
}

// missing is what the attachment lacks, and what is to go from it. What it has
// at the first look was there already.
func (t *tagged) missing(ctx context.Context, found attachment) (change, error) {
	first := !t.looked
	t.looked = true
	var c change
	for _, one := range t.each {
		if one.in(found) {
			one.already = one.already || first
			continue
		}
		if one.layer == nil {
			made, err := one.key.sign(ctx, one.payload)
			if err != nil {
				return change{}, err
			}
			layer := signatureLayer(one.payload, made, t.at)
			one.layer = &layer
		}
		c.add = append(c.add, *one.layer)
	}
	var err error
	if t.replaced != nil {
		c.drop, err = t.replaced.layers(ctx, found)
	}
	return c, err
}

// in tells whether the signature is in the attachment.
func (s *tagSignature) in(found attachment) bool {
	return slices.ContainsFunc(found.entries, func(layer oci.Descriptor) bool {
		return isSignatureBy(layer, s.key.Public(), s.payload, s.digest)
	})
}

// madeAt is the time to record, zero when none is to be.
func (s *Signer) madeAt() time.Time {
	if !s.options.Timestamps {
		return time.Time{}
	}
	return s.options.Now()
}

// complete tells whether the attachment has every signature.
func (t *tagged) complete(found attachment) bool {
	return !slices.ContainsFunc(t.each, func(one *tagSignature) bool { return !one.in(found) })
}

// upload puts the blobs that the attachment will name.
func (t *tagged) upload(ctx context.Context, found attachment, c change) (uploaded bool, err error) {
	if err := t.chooseConfig(found, c); err != nil {
		return false, err
	}
	group, ctx := errgroup.WithContext(ctx)
	put := func(work func() error) {
		uploaded = true
		group.Go(guarded(work))
	}
	if !t.uploaded {
		for _, payload := range t.lacking(found, c) {
			put(func() error { return t.repo.PutBlob(ctx, payload) })
		}
	}
	config := digest.FromBytes(t.config)
	switch constant := []byte(constantConfig); {
	case t.config != nil && !slices.Equal(t.config, constant):
		if t.stands != config {
			put(func() error { return t.repo.PutBlob(ctx, t.config) })
		}
	case t.mistrust && !t.uploaded:
		put(func() error { return t.repo.PutBlob(ctx, constant) })
	case found.absent():
		group.Go(guarded(func() error { return t.repo.PutConstant(ctx, constant) }))
	}
	if err := group.Wait(); err != nil {
		return false, err
	}
	t.uploaded, t.stands = true, config
	return uploaded, nil
}

// lacking are the payloads that have to be uploaded. What the present manifest
// names, the registry has.
func (t *tagged) lacking(found attachment, c change) [][]byte {
	var payloads [][]byte
	seen := map[digest.Digest]bool{}
	for _, one := range t.each {
		wanted := slices.ContainsFunc(c.add, func(d descriptor) bool { return d.Digest == one.digest })
		if seen[one.digest] || !t.mistrust && (!wanted || found.lists(one.digest)) {
			continue
		}
		seen[one.digest] = true
		payloads = append(payloads, one.payload)
	}
	return payloads
}

// chooseConfig decides on the config that the attachment will name.
func (t *tagged) chooseConfig(found attachment, c change) error {
	t.config = nil
	if !found.absent() && !t.full {
		return nil
	}
	if !t.full && !t.options.Timestamps {
		t.config = []byte(constantConfig)
		return nil
	}
	var layers []digest.Digest
	for i, layer := range found.entries {
		if !slices.Contains(c.drop, i) {
			layers = append(layers, layer.Digest)
		}
	}
	for _, layer := range c.add {
		layers = append(layers, layer.Digest)
	}
	var err error
	t.config, err = fullConfig(layers, t.at)
	return err
}

// compose is the manifest to write.
func (t *tagged) compose(name string, found attachment, c change) ([]byte, error) {
	if found.absent() {
		return json.Marshal(struct {
			SchemaVersion int          `json:"schemaVersion"`
			MediaType     string       `json:"mediaType"`
			Config        descriptor   `json:"config"`
			Layers        []descriptor `json:"layers"`
		}{SchemaVersion: 2, MediaType: oci.MediaTypeImageManifest, Config: configDescriptor(t.config), Layers: c.add})
	}
	if len(found.entries)-len(c.drop)+len(c.add) > maxLayers {
		return nil, &ConflictError{Attachment: name, Reason: fmt.Sprintf("it has %d layers, verifiers read no more than %d", len(found.entries), maxLayers)}
	}
	if t.config != nil {
		config := configDescriptor(t.config)
		c.config = &config
	}
	return found.with(name, c)
}

// mediaType is the type of the manifest.
func (t *tagged) mediaType() string { return oci.MediaTypeImageManifest }

// adapt finds another way after a refusal, if there is one.
func (t *tagged) adapt(answer *registry.Error) bool {
	switch {
	case lacksBlob(answer) && !t.mistrust:
		// A garbage collection took what this process or a manifest knew of.
		t.mistrust, t.uploaded, t.stands = true, false, ""
		return true
	case answer.Status != http.StatusBadRequest && answer.Status != http.StatusUnprocessableEntity || lacksBlob(answer):
		return false
	}
	tried := t.full
	t.full = true
	return !tried
}

// stored is told that the manifest was accepted.
func (t *tagged) stored() {
	if t.full {
		t.repo.NoteSharedConfigRefused()
	}
}

// mend uploads again what signatures that were there already name and the registry
// has lost. Nobody can verify them without.
func (t *tagged) mend(ctx context.Context) error {
	blobs := map[digest.Digest][]byte{}
	for _, one := range t.each {
		if one.already {
			blobs[one.digest] = one.payload
		}
	}
	if constant := digest.FromString(constantConfig); len(blobs) > 0 && t.present.config == constant {
		blobs[constant] = []byte(constantConfig)
	}
	for d, body := range blobs {
		_, err := t.repo.Blob(ctx, d, maxPayload)
		if err == nil {
			continue
		}
		if !isNothing(err) && !isLost(err) {
			return fmt.Errorf("reading back %s: %w", d, err)
		}
		t.options.Log.Info("uploading what the registry has lost", zap.String("attachment", t.repo.Name()+":"+t.tag()), zap.Stringer("blob", d))
		if err := t.repo.PutBlob(ctx, body); err != nil {
			return err
		}
	}
	return nil
}

// isLost tells that the storage behind a registry has not what the registry
// thinks is there.
func isLost(err error) bool {
	var answer *registry.Error
	return errors.As(err, &answer) && answer.Foreign && answer.Status == http.StatusNotFound
}

// results are the signatures, with the digest of the attachment they are in.
func (t *tagged) results(attached digest.Digest) []Signature {
	var all []Signature
	for _, one := range t.each {
		signature := Signature{
			Digest: t.manifest.String(), Key: one.key.Fingerprint(), Format: string(FormatTag),
			Attachment: attached.String(), Already: one.already,
		}
		if t.several {
			signature.Identity = one.identity
		}
		all = append(all, signature)
	}
	return all
}
