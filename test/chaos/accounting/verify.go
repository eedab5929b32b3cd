package accounting

import (
	"context"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
)

// Verify has cosign verify what the outcomes say to be signed, at most so many
// references of each key (all when limit is 0), and returns how many it was asked
// about.
func (b *Books) Verify(ctx context.Context, f *fleet.Fleet, limit int) (int, []Complaint) {
	references := map[string]map[string]bool{} // by key
	for _, batch := range b.Batches {
		for _, line := range batch.Lines {
			for _, o := range batch.Outcomes {
				if o.Line == line.Text {
					claimed(references, line, o)
				}
			}
		}
	}
	total := 0
	results := make([]error, len(f.Keys()))
	var group errgroup.Group
	group.SetLimit(2)
	for i, key := range f.Keys() {
		some := slices.Sorted(maps.Keys(references[key.Fingerprint]))
		if limit > 0 && len(some) > limit {
			some = some[:limit]
		}
		total += len(some)
		group.Go(func() error {
			results[i] = peers.CosignVerifyAll(ctx, f.Registry().Access(), key.Public, some)
			return nil
		})
	}
	_ = group.Wait() // each has its own result
	var c complaints
	for _, err := range results {
		if err != nil {
			c.add(Unverified, "%v", err)
		}
	}
	return total, c
}

// claimed adds the references under which the signatures of an outcome are found:
// the line itself for its image or index, and its children by digest.
func claimed(references map[string]map[string]bool, line fleet.Line, o Outcome) {
	for _, claim := range o.Digests {
		if references[claim.Key] == nil {
			references[claim.Key] = map[string]bool{}
		}
		reference := line.Text
		for _, child := range line.Image.Children {
			if child.Digest == claim.Digest {
				reference = line.Image.Child(child.Platform)
			}
		}
		references[claim.Key][reference] = true
	}
}
