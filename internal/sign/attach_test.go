package sign

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
)

var requestOne = Request{Reference: "example.com/app:1"}

// requireSigned holds the attachment against the keys that have to be in it.
func requireSigned(t *testing.T, s *store, manifest digest.Digest, identity string, keys ...*Key) {
	t.Helper()
	payload, err := newPayload(identity, manifest, nil)
	require.NoError(t, err)
	present := s.attachmentOf(t, manifest)
	for _, key := range keys {
		require.True(t, carries(present, key, payload), "signature by %s is missing", key.Fingerprint())
	}
	require.Contains(t, s.blobs, digest.FromBytes(payload))
}

// foreign puts an attachment with somebody else's signature.
func (s *store) foreign(manifest digest.Digest) {
	s.put(attachmentTag(manifest), oci.MediaTypeImageManifest, []byte(cosignAttachment))
}

func TestSigningAgainWritesNothing(t *testing.T) {
	t.Parallel()
	for name, text := range privateKeys(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			d := s.image(t, "1")
			key, err := newMemoryKey(text)
			require.NoError(t, err)
			signer := signerOn(t, s, Options{Keys: []*Key{key}})

			result, err := signer.Sign(t.Context(), requestOne)
			require.NoError(t, err)
			require.Equal(t, map[string]int{"GET manifest": 2, "PUT blob": 2, "PUT manifest": 1}, s.counts())
			requireSigned(t, s, d, "example.com/app:1", key)
			want := Signature{
				Digest: d.String(), Key: key.Fingerprint(), Format: "tag",
				Attachment: s.manifests[attachmentTag(d)].Digest.String(),
			}
			require.Equal(t, Result{Digest: d.String(), Signed: []Signature{want}, Timings: result.Timings}, result)
			require.Positive(t, result.Timings.Sign)

			result, err = signer.Sign(t.Context(), requestOne)
			require.NoError(t, err)
			require.Equal(t, map[string]int{"GET manifest": 2}, s.counts())
			want.Already = true
			require.Equal(t, []Signature{want}, result.Signed)
		})
	}
}

func TestSeveralKeysAreOneWrite(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	keys := []*Key{newKey(t), newKey(t), newKey(t)}
	signer := signerOn(t, s, Options{Keys: keys, ConfirmWrites: ConfirmNever})

	first := requestOne
	first.Keys = []string{keys[1].Fingerprint()}
	result, err := signer.Sign(t.Context(), first)
	require.NoError(t, err)
	require.Len(t, result.Signed, 1)
	require.Equal(t, 1, s.counts()["PUT manifest"])

	result, err = signer.Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"GET manifest": 2, "PUT manifest": 1}, s.counts(), "the payload is there already")
	requireSigned(t, s, d, "example.com/app:1", keys...)
	for i, signature := range result.Signed {
		require.Equal(t, keys[i].Fingerprint(), signature.Key)
		require.Equal(t, i == 1, signature.Already)
	}

	unknown := requestOne
	unknown.Keys = []string{"sha256:abc"}
	_, err = signer.Sign(t.Context(), unknown)
	require.ErrorIs(t, err, ErrUnknownKey)
}

func TestOthersSignaturesAndConfigStay(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	s.foreign(d)
	key := newKey(t)
	_, err := signerOn(t, s, Options{Keys: []*Key{key}, ConfirmWrites: ConfirmNever}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"GET manifest": 2, "PUT blob": 1, "PUT manifest": 1}, s.counts(), "no config of ours is needed")
	requireSigned(t, s, d, "example.com/app:1", key)
	present := s.attachmentOf(t, d)
	require.Equal(t, "MEUCIQ==", present.entries[0].Annotations[signatureAnnotation])
	require.Equal(t, digest.Digest("sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"), present.config)
}

func TestTheTagsOfOneImageAreSignedSideBySide(t *testing.T) {
	t.Parallel()
	for name, private := range privateKeys(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				d := s.image(t, "1")
				s.image(t, "2")
				key, err := newMemoryKey(private)
				require.NoError(t, err)
				signer := signerOn(t, s, Options{Keys: []*Key{key}})
				_, err = signer.Sign(t.Context(), requestOne)
				require.NoError(t, err)
				s.counts()
				_, err = signer.Sign(t.Context(), Request{Reference: "example.com/app:2"})
				require.NoError(t, err)
				requireSigned(t, s, d, "example.com/app:1", key)
				requireSigned(t, s, d, "example.com/app:2", key)
				if name != "Ed25519" {
					require.Equal(t, 2, s.counts()["GET manifest"], "nobody else is here, whose writes were to be feared")
				}
			})
		})
	}
}

func TestSignersOfAFleetTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.latency = time.Second
		d := s.image(t, "1")
		shared := &locks{}
		var keys []*Key
		var group errgroup.Group
		for range 6 {
			key := newKey(t)
			keys = append(keys, key)
			signer := signerOn(t, s, Options{Keys: []*Key{key}, Locker: shared, ConfirmWrites: ConfirmNever})
			group.Go(func() error {
				_, err := signer.Sign(t.Context(), requestOne)
				return err
			})
		}
		require.NoError(t, group.Wait())
		requireSigned(t, s, d, "example.com/app:1", keys...)
	})
}

func TestAWriteThatHangsIsReadBack(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		apply  bool
		writes int
	}{
		{"it had happened", true, 1},
		{"it had not", false, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				d, hang := s.image(t, "1"), unanswered(t)
				s.onPut = func(ctx context.Context, reference string, body []byte) error {
					if test.apply {
						s.put(reference, oci.MediaTypeImageManifest, body)
					}
					return hang(ctx, reference, body)
				}
				key, turns := newKey(t), &locks{}
				began := time.Now()
				result, err := signerOn(t, s, Options{Keys: []*Key{key}, Locker: turns}).Sign(t.Context(), requestOne)
				require.NoError(t, err)
				require.Equal(t, 20*time.Second, time.Since(began))
				require.Equal(t, test.writes, s.counts()["PUT manifest"])
				require.Equal(t, 2, turns.taken, "what became of a write is looked at under a new lock")
				require.False(t, result.Signed[0].Already)
				require.Equal(t, s.manifests[attachmentTag(d)].Digest.String(), result.Signed[0].Attachment)
				requireSigned(t, s, d, "example.com/app:1", key)
			})
		})
	}
}

func TestAnIllRegistryIsLeftToTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d, send := s.image(t, "1"), unanswered(t)
		var hang func(ctx context.Context, reference string, body []byte) error
		hang = func(ctx context.Context, reference string, body []byte) error {
			s.onPut = hang
			return send(ctx, reference, body)
		}
		s.onPut = hang
		_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(t.Context(), requestOne)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, attachmentTag(d))
		counts := s.counts()
		require.Equal(t, maxUnknown, counts["PUT manifest"])
		require.Equal(t, 1+1+maxUnknown, counts["GET manifest"], "the last write is read back as well")
	})
}

func TestSignaturesLostInAFailedWriteAreRestored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d := s.image(t, "1")
		s.foreign(d)
		hang := unanswered(t)
		s.onPut = func(ctx context.Context, reference string, body []byte) error {
			s.remove(reference)
			return hang(ctx, reference, body)
		}
		key := newKey(t)
		_, err := signerOn(t, s, Options{Keys: []*Key{key}}).Sign(t.Context(), requestOne)
		require.NoError(t, err)
		requireSigned(t, s, d, "example.com/app:1", key)
		require.Equal(t, "MEUCIQ==", s.attachmentOf(t, d).entries[0].Annotations[signatureAnnotation])
	})
}

func TestNoWriteBeginsWithALeaseThatMayRunOut(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	turns := &locks{left: func(lock, _ int) time.Duration {
		if lock == 1 {
			return 29 * time.Second
		}
		return time.Minute
	}}
	key := newKey(t)
	_, err := signerOn(t, s, Options{Keys: []*Key{key}, Locker: turns}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Equal(t, 2, turns.taken)
	require.Equal(t, map[string]int{"GET manifest": 3, "PUT blob": 2, "PUT manifest": 1}, s.counts())
	requireSigned(t, s, d, "example.com/app:1", key)

	s.image(t, "2")
	short := &locks{left: func(int, int) time.Duration { return time.Second }}
	_, err = signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Locker: short}).Sign(t.Context(), requestOne)
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	require.ErrorIs(t, err, errLeaseShort)
	require.Zero(t, s.counts()["PUT manifest"])
}

func TestWaitingToBeSentIsNotTheTimeOfAWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d := s.image(t, "1")
		s.turn = 10 * time.Minute
		key, turns := newKey(t), &locks{}
		_, err := signerOn(t, s, Options{Keys: []*Key{key}, Locker: turns}).Sign(t.Context(), requestOne)
		require.NoError(t, err)
		require.Equal(t, 1, turns.taken)
		require.Equal(t, 1, s.counts()["PUT manifest"])
		requireSigned(t, s, d, "example.com/app:1", key)
	})
}

func TestALeaseThatRunsOutWhileTheWriteWaitsIsAnotherTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d := s.image(t, "1")
		s.turn = time.Minute
		began := time.Now()
		turns := &locks{left: func(lock, _ int) time.Duration {
			if lock == 1 {
				return time.Until(began.Add(80 * time.Second))
			}
			return time.Minute
		}}
		key := newKey(t)
		_, err := signerOn(t, s, Options{Keys: []*Key{key}, Locker: turns}).Sign(t.Context(), requestOne)
		require.NoError(t, err)
		require.Equal(t, 2, turns.taken)
		require.Equal(t, 1, s.counts()["PUT manifest"], "the first was not sent")
		requireSigned(t, s, d, "example.com/app:1", key)
	})
}

func TestAWriteThatWasNotSentIsNotOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.image(t, "1")
	s.onPut = func(context.Context, string, []byte) error {
		return &registry.Error{Op: "put manifest", Method: "PUT", Err: context.DeadlineExceeded}
	}
	_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(t.Context(), requestOne)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, map[string]int{"GET manifest": 2, "PUT blob": 2, "PUT manifest": 1}, s.counts(), "nothing is to be read back")
}

func TestAWriteWhoseLeaseWasLostIsReadBack(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	// The second question is after the write: by then another signer may have
	// had the lock, and here one has.
	turns := &locks{left: func(lock, question int) time.Duration {
		if lock == 1 && question == 2 {
			s.foreign(d)
			return 0
		}
		return time.Minute
	}}
	key := newKey(t)
	_, err := signerOn(t, s, Options{Keys: []*Key{key}, Locker: turns, ConfirmWrites: ConfirmNever}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	require.Equal(t, 2, turns.taken)
	require.Equal(t, 2, s.counts()["PUT manifest"])
	requireSigned(t, s, d, "example.com/app:1", key)
	require.Len(t, s.attachmentOf(t, d).entries, 2)
}

func TestALockThatIsNotHadEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		d := s.image(t, "1")
		turns := &locks{}
		_, err := turns.Lock(t.Context(), s.Location()+"@"+d.String()) // by whatever name
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Locker: turns}).Sign(ctx, requestOne)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, map[string]int{"GET manifest": 1}, s.counts())
	})
}

func TestAFailureToReadIsNotAnAbsentAttachment(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	s.foreign(d)
	s.onGet = func(reference string) error {
		if reference == attachmentTag(d) {
			return &registry.Error{Op: "get manifest", Method: "GET", Status: 503}
		}
		return nil
	}
	_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(t.Context(), requestOne)
	var answer *registry.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, 503, answer.Status)
	require.Equal(t, map[string]int{"GET manifest": 2}, s.counts())
}

func TestWhatHasTheTagOfAnAttachmentIsNotOverwritten(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	signer := signerOn(t, s, Options{Keys: []*Key{newKey(t)}})

	s.put(attachmentTag(d), oci.MediaTypeImageIndex, []byte(`{"manifests":[]}`))
	_, err := signer.Sign(t.Context(), requestOne)
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)

	s.put(attachmentTag(d), dockerManifest, []byte(cosignAttachment))
	_, err = signer.Sign(t.Context(), requestOne)
	var unsupported *UnsupportedError
	require.ErrorAs(t, err, &unsupported)
	require.Equal(t, "example.com/app:"+attachmentTag(d), unsupported.Reference)
	require.Equal(t, map[string]int{"GET manifest": 4}, s.counts())
}

func TestARefusedWriteIsNotRepeated(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]*registry.Error{
		"immutable": {Method: "PUT", Status: 409, Codes: []registry.Diagnostic{{Code: "TAG_IMMUTABLE"}}},
		"denied":    {Method: "PUT", Status: 403, Codes: []registry.Diagnostic{{Code: "DENIED"}}},
		"throttled": {Method: "PUT", Status: 429, RetryAfter: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore()
			s.image(t, "1")
			s.onPut = func(context.Context, string, []byte) error { return answer }
			_, err := signerOn(t, s, Options{Keys: []*Key{newKey(t)}}).Sign(t.Context(), requestOne)
			require.ErrorIs(t, err, answer)
			var immutable *ImmutableError
			require.Equal(t, name == "immutable", errors.As(err, &immutable))
			require.Equal(t, 1, s.counts()["PUT manifest"])
		})
	}
}

func TestBlobsThatAreGoneAreUploadedAgain(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	s.Holds(digest.FromString(constantConfig)) // but it does not
	s.onPut = func(context.Context, string, []byte) error {
		return &registry.Error{Method: "PUT", Status: 400, Codes: []registry.Diagnostic{{Code: "MANIFEST_BLOB_UNKNOWN"}}}
	}
	key := newKey(t)
	_, err := signerOn(t, s, Options{Keys: []*Key{key}}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	requireSigned(t, s, d, "example.com/app:1", key)
	require.Contains(t, s.blobs, digest.FromString(constantConfig))
	require.Equal(t, map[string]int{"GET manifest": 3, "PUT blob": 3, "PUT manifest": 2}, s.counts())
}
