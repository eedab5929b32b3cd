package accounting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
)

// readWritten looks for each signature that went through the proxy and that the
// registry said it has stored: the outcomes tell only of those that count.
func (b *Books) readWritten(ctx context.Context, f *fleet.Fleet) error {
	pusher, err := peers.NewPusher(f.Proxy().Host(), f.Registry().Access())
	if err != nil {
		return err
	}
	type attachment struct{ repository, tag string }
	written := map[attachment]map[string]bool{}
	for _, w := range f.Proxy().Written() {
		at := attachment{w.Repository, w.Tag}
		if written[at] == nil {
			written[at] = map[string]bool{}
		}
		signatures, err := signaturesIn(w.Body)
		if err != nil {
			return fmt.Errorf("%s:%s as it was written: %w", at.repository, at.tag, err)
		}
		for _, s := range signatures {
			written[at][s] = true
		}
	}
	for at, want := range written {
		reference := f.Proxy().Host() + "/" + at.repository + ":" + at.tag
		body, err := pusher.Manifest(ctx, reference)
		var answer *transport.Error
		if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
			body, err = []byte("{}"), nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", reference, err)
		}
		signatures, err := signaturesIn(body)
		if err != nil {
			return fmt.Errorf("reading %s: %w", reference, err)
		}
		for _, s := range signatures {
			delete(want, s)
		}
		for range want {
			b.Vanished = append(b.Vanished, at.repository+":"+at.tag)
		}
	}
	return nil
}

// signaturesIn are the signatures in a manifest, with the digests of what they are over.
func signaturesIn(manifest []byte) ([]string, error) {
	var m struct {
		Layers []struct {
			Digest      string            `json:"digest"`
			Annotations map[string]string `json:"annotations"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, err
	}
	var all []string
	for _, layer := range m.Layers {
		all = append(all, layer.Digest+" "+layer.Annotations["dev.cosignproject.cosign/signature"])
	}
	return all, nil
}
