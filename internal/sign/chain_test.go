package sign

import (
	"testing"
	"testing/synctest"
	"time"

	oci "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// The longest chain of requests that wait for each other, for an index and two
// of its children: what an image takes where each request takes a second. A
// blob is one request here; where a registry takes it in two, that is one more.
func TestTheLongestChainOfRequests(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		formats []Format
		api     bool
		chain   int
	}{
		{"tag: image, attachment, blob, attachment", []Format{FormatTag}, false, 4},
		{"referrer: image, look, blob, manifest", []Format{FormatReferrer}, true, 4},
		{"referrer without the API: image, index, blob, manifest, index", []Format{FormatReferrer}, false, 5},
		{"both are made side by side", []Format{FormatTag, FormatReferrer}, false, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				s.api, s.latency = test.api, time.Second
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
