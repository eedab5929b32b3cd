// Package seed fills repositories with images to sign: indexes of two children
// each, all with digests of their own, pushed with as few requests as the
// registry allows. What is in the images does not matter to a signer, so the
// images of a repository share their one layer and their configs.
package seed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"

	"golang.org/x/sync/errgroup"
)

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// Digests is how many digests of an image are signed: the index and two children.
const Digests = 3

// Image is one that was pushed.
type Image struct {
	Repository string // without the host
	Tag        string
	Digests    [Digests]string // the index first
}

// Reference returns the image's tag at a host.
func (i Image) Reference(host string) string { return host + "/" + i.Repository + ":" + i.Tag }

// ByDigest returns the references of the image's digests at a host.
func (i Image) ByDigest(host string) []string {
	var references []string
	for _, digest := range i.Digests {
		references = append(references, host+"/"+i.Repository+"@"+digest)
	}
	return references
}

// Options say what to push.
type Options struct {
	Host         string // of the registry, which speaks plain HTTP
	Prefix       string // of the repositories' names
	Images       int
	Repositories int // that the images are dealt to, one after the other
}

// Push pushes images that nobody has signed.
func Push(ctx context.Context, o Options) ([]Image, error) {
	p := &pusher{base: "http://" + o.Host + "/v2/", client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: parallel}}}
	defer p.client.CloseIdleConnections()
	name := func(n int) string { return fmt.Sprintf("%s/team-%04d/app", o.Prefix, n%o.Repositories) }
	blobs, pushing := errgroup.WithContext(ctx)
	blobs.SetLimit(parallel)
	for n := range min(o.Repositories, o.Images) {
		blobs.Go(func() error { return p.repository(pushing, name(n)) })
	}
	if err := blobs.Wait(); err != nil {
		return nil, err
	}
	images := make([]Image, o.Images)
	manifests, pushing := errgroup.WithContext(ctx)
	manifests.SetLimit(parallel)
	for n := range images {
		manifests.Go(func() error {
			var err error
			images[n], err = p.image(pushing, name(n), fmt.Sprintf("v1.%d", n))
			return err
		})
	}
	return images, manifests.Wait()
}

// parallel is how many requests are made at once.
const parallel = 8

type pusher struct {
	base   string
	client *http.Client
}

// repository pushes what the images of a repository share.
func (p *pusher) repository(ctx context.Context, name string) error {
	for _, blob := range []string{layerOf(name), configOf("amd64", name), configOf("arm64", name)} {
		if err := p.blob(ctx, name, []byte(blob)); err != nil {
			return err
		}
	}
	return nil
}

func (p *pusher) image(ctx context.Context, name, tag string) (Image, error) {
	i := Image{Repository: name, Tag: tag}
	var children bytes.Buffer
	for n, arch := range []string{"amd64", "arm64"} {
		child := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},`+
			`"layers":[{"mediaType":%q,"digest":%q,"size":%d}],"annotations":{"org.opencontainers.image.version":%q}}`,
			manifestType, configType, sum(configOf(arch, name)), len(configOf(arch, name)),
			layerType, sum(layerOf(name)), len(layerOf(name)), tag)
		i.Digests[1+n] = sum(child)
		if err := p.manifest(ctx, name, sum(child), manifestType, child); err != nil {
			return Image{}, err
		}
		if n > 0 {
			children.WriteByte(',')
		}
		fmt.Fprintf(&children, `{"mediaType":%q,"digest":%q,"size":%d,"platform":{"architecture":%q,"os":"linux"}}`,
			manifestType, sum(child), len(child), arch)
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, &children)
	i.Digests[0] = sum(index)
	return i, p.manifest(ctx, name, tag, indexType, index)
}

func (p *pusher) manifest(ctx context.Context, name, reference, kind, body string) error {
	_, err := p.send(ctx, http.MethodPut, p.base+name+"/manifests/"+reference, kind, []byte(body), http.StatusCreated)
	return err
}

func (p *pusher) blob(ctx context.Context, name string, body []byte) error {
	location, err := p.send(ctx, http.MethodPost, p.base+name+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", sum(string(body)))
	location.RawQuery = query.Encode()
	_, err = p.send(ctx, http.MethodPut, location.String(), "application/octet-stream", body, http.StatusCreated)
	return err
}

// send makes a request and returns where its answer leads to, if it leads anywhere.
func (p *pusher) send(ctx context.Context, method, url, kind string, body []byte, want int) (*neturl.URL, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, answer.Status, text)
	}
	location, err := answer.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return &neturl.URL{}, nil
	}
	return location, err
}

func layerOf(name string) string { return "layer of " + name }

func configOf(arch, name string) string {
	return fmt.Sprintf(`{"architecture":%q,"os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, arch, sum(layerOf(name)))
}

func sum(body string) string {
	hashed := sha256.Sum256([]byte(body))
	return "sha256:" + hex.EncodeToString(hashed[:])
}
