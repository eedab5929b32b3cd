package sign

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/signfleet/signfleet/internal/registry"
)

// What is here makes referring the content of an attachment: of the index of
// referrers, where the registry does not list them by itself (OCI distribution
// spec 1.1, "referrers tag schema").

func (r *referring) tag() string       { return fallbackTagOf(r.to.digest) }
func (r *referring) mediaType() string { return oci.MediaTypeImageIndex }
func (r *referring) lock() string {
	return r.repo.Location() + "@" + r.to.digest.String() + " referrers"
}

func (r *referring) read(name string, found registry.Manifest) (attachment, error) {
	return readReferrersIndex(name, found)
}

// foreign tells whether the index lists anything that is not known to be ours.
func (r *referring) foreign(found attachment) bool {
	return slices.ContainsFunc(found.entries, func(entry oci.Descriptor) bool {
		return !slices.ContainsFunc(r.each, func(one *keyBundle) bool { return one.digest == entry.Digest })
	})
}

// missing are the bundles that the index does not list. What it lists at the
// first look was there already.
func (r *referring) missing(ctx context.Context, found attachment) (change, error) {
	first := !r.looked
	r.looked = true
	var c change
	for _, one := range r.each {
		listed, err := r.listed(ctx, found, one)
		if err != nil {
			return change{}, err
		}
		if listed {
			one.already = one.already || first
			continue
		}
		if err := r.sign(ctx, one); err != nil {
			return change{}, err
		}
		c.add = append(c.add, one.made.entry)
	}
	if len(r.options.Replaced) == 0 {
		return c, nil
	}
	old, err := r.replaced(ctx, found.entries)
	for i, entry := range found.entries {
		if slices.ContainsFunc(old, func(b *keptBundle) bool { return b.digest == entry.Digest }) {
			c.drop = append(c.drop, i)
		}
	}
	return c, err
}

// listed tells whether the index lists the bundle of a key.
func (r *referring) listed(ctx context.Context, found attachment, one *keyBundle) (bool, error) {
	if r.foreseen(one) {
		if err := r.sign(ctx, one); err != nil {
			return false, err
		}
	}
	if one.digest != "" {
		return found.lists(one.digest), nil
	}
	return r.find(ctx, found.entries, one)
}

func (r *referring) complete(found attachment) bool {
	return !slices.ContainsFunc(r.each, func(one *keyBundle) bool { return !found.lists(one.digest) })
}

// upload puts what the index will list. Where there is an index already, ours
// may have been in it: then its manifest is still there, and its entry alone is
// to be written again.
func (r *referring) upload(ctx context.Context, found attachment, c change) (uploaded bool, err error) {
	var puts atomic.Bool
	err = r.forEach(func(one *keyBundle) error {
		if one.stored || one.made == nil || !c.adds(one.digest) {
			return nil
		}
		if !found.absent() && !one.mistrust {
			if err := r.lookFor(ctx, one); err != nil || one.stored {
				return err
			}
		}
		puts.Store(true)
		return r.put(ctx, one)
	})
	if err != nil {
		return false, err
	}
	if api, err := r.repo.HasReferrersAPI(ctx, r.to.digest); err == nil && api {
		return true, errListsReferrers // as its answer to a manifest said
	}
	return puts.Load(), nil
}

// errListsReferrers tells that a registry lists referrers by itself after all.
var errListsReferrers = errors.New("the registry lists referrers")

// adds tells whether an entry with the digest comes.
func (c change) adds(d digest.Digest) bool {
	return slices.ContainsFunc(c.add, func(entry descriptor) bool { return entry.Digest == d })
}

func (r *referring) compose(name string, found attachment, c change) ([]byte, error) {
	if found.absent() {
		return json.Marshal(struct {
			SchemaVersion int          `json:"schemaVersion"`
			MediaType     string       `json:"mediaType"`
			Manifests     []descriptor `json:"manifests"`
		}{SchemaVersion: 2, MediaType: oci.MediaTypeImageIndex, Manifests: c.add})
	}
	return found.with(name, c)
}

// adapt uploads all again where the registry lacks what it should have.
func (r *referring) adapt(answer *registry.Error) bool {
	if !lacksBlob(answer) {
		return false
	}
	again := false
	for _, one := range r.each {
		again = again || !one.mistrust
		one.mistrust, one.stored = true, false
	}
	return again
}

func (r *referring) stored() {}
