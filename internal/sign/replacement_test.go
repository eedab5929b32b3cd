package sign

import (
	"testing"

	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// What an old key has claimed and the new one does not is not taken away.
func TestASignatureThatClaimsMoreIsNotReplaced(t *testing.T) {
	t.Parallel()
	claims := map[string]string{"stage": "production"}
	for _, format := range bothFormats {
		for name, api := range map[string]bool{"index of referrers": false, "referrers API": true} {
			t.Run(string(format)+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := newStore()
				s.api = api
				d := s.image(t, "1")
				old := newKey(t)
				sign := func(o Options) {
					o.Formats, o.ConfirmWrites = []Format{format}, ConfirmNever
					_, err := signerOn(t, s, o).Sign(t.Context(), requestOne)
					require.NoError(t, err)
				}
				signatures := func() int {
					if format == FormatTag {
						return len(s.attachmentOf(t, d).entries)
					}
					entries, err := listReferrers(t.Context(), s, d)
					require.NoError(t, err)
					return len(entries)
				}
				sign(Options{Keys: []*Key{old}, Annotations: claims})
				sign(Options{Keys: []*Key{newKey(t)}, Replaced: []*PublicKey{old.Public()}})
				require.Equal(t, 2, signatures())
				sign(Options{Keys: []*Key{newKey(t)}, Annotations: claims, Replaced: []*PublicKey{old.Public()}})
				require.Equal(t, 2, signatures(), "the new one claims it too")
			})
		}
	}
}

// Where there is no room for one more, there is for one in place of another.
func TestReplacingInAFullAttachment(t *testing.T) {
	t.Parallel()
	s := newStore()
	d := s.image(t, "1")
	old, key := newKey(t), newKey(t)
	_, err := signerOn(t, s, Options{Keys: []*Key{old}}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	others := make([]descriptor, maxLayers-1)
	for i := range others {
		others[i] = descriptor{MediaType: "text/plain", Digest: digestB, Size: int64(i)}
	}
	full, err := s.attachmentOf(t, d).with("test", change{add: others})
	require.NoError(t, err)
	s.put(attachmentTag(d), oci.MediaTypeImageManifest, full)

	_, err = signerOn(t, s, Options{Keys: []*Key{key}, ConfirmWrites: ConfirmNever}).Sign(t.Context(), requestOne)
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	_, err = signerOn(t, s, Options{Keys: []*Key{key}, Replaced: []*PublicKey{old.Public()}, ConfirmWrites: ConfirmNever}).Sign(t.Context(), requestOne)
	require.NoError(t, err)
	requireSigned(t, s, d, "example.com/app:1", key)
	require.Len(t, s.attachmentOf(t, d).entries, maxLayers)
}
