package registry

import (
	"context"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxConstants bounds what is remembered over the life of a process, at a few
// megabytes. Forgetting one costs a repeated upload.
const maxConstants = 1 << 14

// constants are the blobs that are known to be in a repository.
type constants struct {
	mu   sync.Mutex
	held map[constantKey]struct{}
}

type constantKey struct {
	repository string
	digest     digest.Digest
}

// PutConstant writes a blob that every signature of the repository shares. It
// is written once as long as the client remembers it; those who come meanwhile wait for
// that one write, and a failed one is not remembered.
func (r *Repository) PutConstant(ctx context.Context, body []byte) error {
	d := digest.FromBytes(body)
	if r.client.constants.has(r.at.name, d) {
		return nil
	}
	_, err := r.client.shared.do(ctx, "constant "+r.at.name+"@"+d.String(), func(ctx context.Context) (string, error) {
		if r.client.constants.has(r.at.name, d) {
			return "", nil // written between our look and our turn
		}
		if err := r.PutBlob(ctx, body); err != nil {
			return "", err
		}
		r.Holds(d)
		return "", nil
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s: %w", r.describe("write blob", d.String()), err)
	}
	return err
}

// Holds tells that a manifest of this repository names the blob, which
// therefore need not be written.
func (r *Repository) Holds(d digest.Digest) { r.client.constants.add(r.at.name, d) }

func (c *constants) has(repository string, d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.held[constantKey{repository, d}]
	return ok
}

func (c *constants) add(repository string, d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = make(map[constantKey]struct{})
	}
	key := constantKey{repository, d}
	if _, ok := c.held[key]; ok {
		return
	}
	for forgotten := range c.held {
		if len(c.held) < maxConstants {
			break
		}
		delete(c.held, forgotten) // any one will do
	}
	c.held[key] = struct{}{}
}
