package sign

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
)

// store is a repository in memory, for tests that need their time to be the
// bubble's: a real socket would stop it.
type store struct {
	mu        sync.Mutex
	manifests map[string]registry.Manifest
	blobs     map[digest.Digest][]byte
	constants map[digest.Digest]bool
	requests  []string

	api        bool // it lists referrers by itself
	twice      bool // it takes two requests for a blob
	fullConfig bool // it refuses the shared config

	latency time.Duration
	turn    time.Duration // how long a PUT of a manifest waits before it is sent
	// onPut, when set, does what is to happen instead of the next PUT of a manifest.
	onPut func(ctx context.Context, reference string, body []byte) error
	onGet func(reference string) error
}

func newStore() *store {
	return &store{
		manifests: map[string]registry.Manifest{},
		blobs:     map[digest.Digest][]byte{},
		constants: map[digest.Digest]bool{},
	}
}

func (s *store) Name() string     { return "example.com/app" }
func (s *store) Location() string { return "registry.example.com/moved/app" }

func (s *store) count(ctx context.Context, format string, args ...any) error {
	s.mu.Lock()
	s.requests = append(s.requests, fmt.Sprintf(format, args...))
	s.mu.Unlock()
	timer := time.NewTimer(s.latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *store) Manifest(ctx context.Context, reference string) (registry.Manifest, error) {
	if err := s.count(ctx, "GET manifest"); err != nil {
		return registry.Manifest{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onGet != nil {
		if err := s.onGet(reference); err != nil {
			return registry.Manifest{}, err
		}
	}
	found, ok := s.manifests[reference]
	if !ok {
		return registry.Manifest{}, &registry.Error{Op: "get manifest", Method: "GET", Status: 404}
	}
	return found, nil
}

func (s *store) PutManifest(ctx context.Context, reference, mediaType string, body []byte, begin registry.BeginWrite) error {
	if s.turn > 0 {
		select {
		case <-time.After(s.turn):
		case <-ctx.Done():
		}
	}
	if begin != nil {
		end, err := begin()
		if err != nil {
			return &registry.Error{Op: "put manifest", Method: "PUT", Err: err}
		}
		defer end()
	}
	if err := s.count(ctx, "PUT manifest"); err != nil {
		return err
	}
	s.mu.Lock()
	instead := s.onPut
	s.onPut = nil
	s.mu.Unlock()
	if instead != nil {
		return instead(ctx, reference, body)
	}
	s.put(reference, mediaType, body)
	return nil
}

// put stores a manifest behind the signer's back.
func (s *store) put(reference, mediaType string, body []byte) digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := registry.Manifest{MediaType: mediaType, Digest: digest.FromBytes(body), Body: body}
	s.manifests[reference] = found
	s.manifests[found.Digest.String()] = found
	return found.Digest
}

func (s *store) remove(reference string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.manifests, reference)
}

func (s *store) Blob(ctx context.Context, d digest.Digest, _ int64) ([]byte, error) {
	if err := s.count(ctx, "GET blob"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blobs[d], nil
}

func (s *store) PutBlob(ctx context.Context, body []byte) error {
	if s.twice {
		if err := s.count(ctx, "POST blob"); err != nil {
			return err
		}
	}
	if err := s.count(ctx, "PUT blob"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[digest.FromBytes(body)] = body
	return nil
}

func (s *store) PutConstant(ctx context.Context, body []byte) error {
	d := digest.FromBytes(body)
	s.mu.Lock()
	known := s.constants[d]
	s.mu.Unlock()
	if known {
		return nil
	}
	s.Holds(d)
	return s.PutBlob(ctx, body)
}

func (s *store) Holds(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.constants[d] = true
}

func (s *store) Has(ctx context.Context, d digest.Digest) (bool, error) {
	if err := s.count(ctx, "HEAD manifest"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.manifests[d.String()]
	return ok, nil
}

func (s *store) HasReferrersAPI(context.Context, digest.Digest) (bool, error) { return s.api, nil }

func (s *store) Referrers(ctx context.Context, subject digest.Digest) ([]oci.Descriptor, error) {
	if err := s.count(ctx, "GET referrers"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []oci.Descriptor
	for reference, found := range s.manifests {
		var read oci.Manifest
		if reference != found.Digest.String() || json.Unmarshal(found.Body, &read) != nil || read.Subject == nil || read.Subject.Digest != subject {
			continue
		}
		entries = append(entries, oci.Descriptor{MediaType: found.MediaType, Digest: found.Digest, Size: int64(len(found.Body)),
			ArtifactType: read.ArtifactType, Annotations: read.Annotations})
	}
	return entries, nil
}

func (s *store) DeleteManifest(ctx context.Context, d digest.Digest) error {
	if err := s.count(ctx, "DELETE manifest"); err != nil {
		return err
	}
	s.remove(d.String())
	return nil
}

func (s *store) RefusesSharedConfig() bool { return s.fullConfig }
func (s *store) NoteSharedConfigRefused()  { s.fullConfig = true }

// counts are the requests since the last call.
func (s *store) counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{}
	for _, request := range s.requests {
		counts[request]++
	}
	s.requests = nil
	return counts
}

// image stores a single image and returns its digest.
func (s *store) image(t testing.TB, tag string) digest.Digest {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux"}`)
	s.blobs[digest.FromBytes(config)] = config
	return s.put(tag, oci.MediaTypeImageManifest, jsonOf(t, oci.Manifest{
		MediaType: oci.MediaTypeImageManifest,
		Config:    oci.Descriptor{MediaType: oci.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    []oci.Descriptor{{MediaType: oci.MediaTypeImageLayerGzip, Digest: digestA, Size: 1}},
	}))
}

func jsonOf(t testing.TB, value any) []byte {
	t.Helper()
	body, err := json.Marshal(value)
	require.NoError(t, err)
	return body
}

// attachmentOf reads the layers under an attachment's tag.
func (s *store) attachmentOf(t testing.TB, manifest digest.Digest) attachment {
	t.Helper()
	s.mu.Lock()
	found, ok := s.manifests[attachmentTag(manifest)]
	s.mu.Unlock()
	require.True(t, ok, "no attachment")
	read, err := readAttachment("test", found)
	require.NoError(t, err)
	return read
}

// locks is a Locker of this process. Its leases last an hour unless left says
// otherwise, which is asked with the number of the lock and of the question.
type locks struct {
	mu    sync.Mutex
	turns map[string]chan struct{}
	taken int
	left  func(lock, question int) time.Duration
}

type lease struct {
	locks    *locks
	number   int
	question int
	free     func()
}

func (l *locks) Lock(ctx context.Context, name string) (Lease, error) {
	l.mu.Lock()
	if l.turns == nil {
		l.turns = map[string]chan struct{}{}
	}
	turn, ok := l.turns[name]
	if !ok {
		turn = make(chan struct{}, 1)
		l.turns[name] = turn
	}
	l.mu.Unlock()
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken++
	return &lease{locks: l, number: l.taken, free: sync.OnceFunc(func() { <-turn })}, nil
}

func (l *lease) Left() time.Duration {
	l.question++
	if l.locks.left == nil {
		return time.Hour
	}
	return l.locks.left(l.number, l.question)
}

func (l *lease) Unlock() error {
	l.free()
	return nil
}

// unanswered sends a write that is never answered, so that its error is the one
// that the registry makes of it.
func unanswered(t testing.TB) func(ctx context.Context, reference string, body []byte) error {
	t.Helper()
	repo, err := newClient(t, registry.Options{Transport: silence{}}).Repository("example.com/app")
	require.NoError(t, err)
	return func(ctx context.Context, reference string, body []byte) error {
		return repo.PutManifest(ctx, reference, oci.MediaTypeImageManifest, body, nil)
	}
}

type silence struct{}

func (silence) RoundTrip(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

// signerOn makes a signer of a store.
func signerOn(t testing.TB, s attachmentStore, o Options) *Signer {
	t.Helper()
	if o.Locker == nil {
		o.Locker = &locks{}
	}
	signer, err := newSigner(o, func(string) (attachmentStore, error) { return s, nil })
	require.NoError(t, err)
	return signer
}
