// Package floor signs images with the bare sequence of requests and nothing
// around it: the least that a signer of the classic format can do against the
// distribution registry, and so what a signer is measured by.
//
// Per image it is one GET of the index, and for the index and each child side
// by side GET .sig, POST and PUT of the payload, PUT .sig: a chain of 5. The
// config that all signatures of a repository share is written once for each.
// There is no queue, no lock, no list, no policy, no retry, no login, no
// encrypted key; a surprise of any kind ends it.
package floor

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"os"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	payloadType  = "application/vnd.dev.cosign.simplesigning.v1+json"
	blobType     = "application/octet-stream"
	config       = `{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}`
	accept       = indexType + ", " + manifestType
)

// Sign signs the images of a list, so many at a time, with the PKCS#8 key of a
// PEM file. The registry is reached over plain HTTP.
func Sign(ctx context.Context, list, key string, jobs int) error {
	references, err := readLines(list)
	if err != nil {
		return err
	}
	private, err := readKey(key)
	if err != nil {
		return err
	}
	s := &signer{key: private, client: newClient()}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for _, reference := range references {
		group.Go(func() error { return s.image(ctx, reference) })
	}
	return group.Wait()
}

type signer struct {
	key     *ecdsa.PrivateKey
	client  *http.Client
	configs sync.Map // repository -> func() error
}

// image signs an index and its children.
func (s *signer) image(ctx context.Context, reference string) error {
	host, rest, _ := strings.Cut(reference, "/")
	name, tag, ok := cutLast(rest, ":")
	if !ok {
		return fmt.Errorf("%s has no tag", reference)
	}
	r := repository{url: "http://" + host + "/v2/" + name, identity: reference}
	body, err := s.get(ctx, r.url+"/manifests/"+tag)
	if err != nil {
		return err
	}
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(body, &index); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.attach(ctx, r, sum(body)) })
	for _, child := range index.Manifests {
		group.Go(func() error { return s.attach(ctx, r, child.Digest) })
	}
	return group.Wait()
}

type repository struct {
	url, identity string
}

// attach writes the signature of one digest, which must not have any.
func (s *signer) attach(ctx context.Context, r repository, digest string) error {
	tag := r.url + "/manifests/" + strings.Replace(digest, ":", "-", 1) + ".sig"
	payload := []byte(`{"critical":{"identity":{"docker-reference":"` + r.identity + `"},"image":{"docker-manifest-digest":"` +
		digest + `"},"type":"cosign container image signature"},"optional":null}`)
	if err := s.absent(ctx, tag); err != nil {
		return err
	}
	group, uploading := errgroup.WithContext(ctx)
	group.Go(func() error { return s.upload(uploading, r.url, payload) })
	group.Go(func() error { return s.config(ctx, r.url) })
	if err := group.Wait(); err != nil {
		return err
	}
	hashed := sha256.Sum256(payload)
	signature, err := s.key.Sign(nil, hashed[:], crypto.SHA256) // deterministic, as the program's own
	if err != nil {
		return err
	}
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":%d,"digest":%q},`+
		`"layers":[{"mediaType":%q,"size":%d,"digest":%q,"annotations":{"dev.cosignproject.cosign/signature":%q}}]}`,
		manifestType, configType, len(config), sum([]byte(config)),
		payloadType, len(payload), sum(payload), base64.StdEncoding.EncodeToString(signature))
	_, err = s.send(ctx, http.MethodPut, tag, manifestType, []byte(manifest), http.StatusCreated)
	return err
}

// config writes the shared config of a repository once; the others wait for it.
func (s *signer) config(ctx context.Context, url string) error {
	once, _ := s.configs.LoadOrStore(url, sync.OnceValue(func() error { return s.upload(ctx, url, []byte(config)) }))
	return once.(func() error)()
}

func (s *signer) upload(ctx context.Context, url string, body []byte) error {
	location, err := s.send(ctx, http.MethodPost, url+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", sum(body))
	location.RawQuery = query.Encode()
	_, err = s.send(ctx, http.MethodPut, location.String(), blobType, body, http.StatusCreated)
	return err
}

// absent sees to it that there is nothing yet.
func (s *signer) absent(ctx context.Context, url string) error {
	_, err := s.send(ctx, http.MethodGet, url, "", nil, http.StatusNotFound)
	return err
}

func (s *signer) get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// send makes a request whose answer's body does not matter, and returns where
// the answer leads to, if it leads anywhere.
func (s *signer) send(ctx context.Context, method, url, kind string, body []byte, want int) (*neturl.URL, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return nil, err
	}
	if answer.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s", method, url, answer.Status)
	}
	location, err := answer.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return &neturl.URL{}, nil
	}
	return location, err
}

// newClient keeps every connection that it opened.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1 << 10, DisableCompression: true}}
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(path + " is no PEM file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, and not an ECDSA key", path, key)
	}
	return private, nil
}

func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	var lines []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	return lines, scanner.Err()
}

func sum(body []byte) string {
	hashed := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(hashed[:])
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
