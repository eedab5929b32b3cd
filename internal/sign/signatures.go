package sign

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// signatures are those of one manifest: one payload, signed by each key.
type signatures struct {
	payload []byte
	digest  digest.Digest // of the payload
	each    []*keySignature
	looked  bool // whether the attachment was seen once
}

// keySignature is the signature by one key. It is made when it turns out to be
// missing, and only once, so that a repeated write is the same bytes also
// where a key signs differently each time.
type keySignature struct {
	key     *Key
	layer   *descriptor
	already bool
}

func newSignatures(keys []*Key, payload []byte) *signatures {
	s := &signatures{payload: payload, digest: digest.FromBytes(payload)}
	for _, key := range keys {
		s.each = append(s.each, &keySignature{key: key})
	}
	return s
}

// missing are the layers that the attachment lacks. What it has at the first
// look was there already.
func (s *signatures) missing(ctx context.Context, found attachment) ([]descriptor, error) {
	first := !s.looked
	s.looked = true
	var layers []descriptor
	for _, one := range s.each {
		if found.carries(one.key, s.payload) {
			one.already = one.already || first
			continue
		}
		if one.layer == nil {
			made, err := one.key.sign(ctx, s.payload)
			if err != nil {
				return nil, err
			}
			layer := signatureLayer(s.payload, made)
			one.layer = &layer
		}
		layers = append(layers, *one.layer)
	}
	return layers, nil
}

// all tells whether the attachment has every signature.
func (s *signatures) all(found attachment) bool {
	for _, one := range s.each {
		if !found.carries(one.key, s.payload) {
			return false
		}
	}
	return true
}
