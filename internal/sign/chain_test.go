package sign

import (
	"testing"
	"testing/synctest"
	"time"

	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// The longest chain of requests that wait for each other, for an index and two
// of its children: what an image takes where each request takes a second.
func TestTheLongestChainOfRequests(t *testing.T) {
	t.Parallel()
	tag, referrer := []Format{FormatTag}, []Format{FormatReferrer}
	for _, test := range []struct {
		name    string
		formats []Format
		api     bool
		twice   bool // two requests a blob, as distribution wants
		chain   int
	}{
		{"tag: image, attachment, blob, attachment", tag, false, false, 4},
		{"tag: image, attachment, blob in two, attachment", tag, false, true, 5},
		{"referrer: image, look, blob, manifest", referrer, true, false, 4},
		{"referrer without the API: image, index, blob, manifest, index", referrer, false, false, 5},
		{"referrer without the API: image, index, blob in two, manifest, index", referrer, false, true, 6},
		{"both are made side by side", bothFormats, false, false, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				s.api, s.twice, s.latency = test.api, test.twice, time.Second
				s.put("1", oci.MediaTypeImageIndex, jsonOf(t, oci.Index{MediaType: oci.MediaTypeImageIndex,
					Manifests: []oci.Descriptor{child("a", "linux/amd64"), child("b", "linux/arm64")}}))
				signer := signerOn(t, s, Options{Keys: []*Key{newKey(t)}, Formats: test.formats})
				began := time.Now()
				result, err := signer.Sign(t.Context(), requestOne)
				require.NoError(t, err)
				require.Len(t, result.Signed, 3*len(test.formats))
				require.Equal(t, time.Duration(test.chain)*time.Second, time.Since(began))
			})
		})
	}
}
