package sign

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

var (
	hexA    = strings.Repeat("a", 64)
	digestA = digest.Digest("sha256:" + hexA)
	digestB = digest.Digest("sha256:" + strings.Repeat("b", 64))
)

func TestPayloadByteForByte(t *testing.T) {
	t.Parallel()
	for _, none := range []map[string]string{nil, {}} {
		body, err := newPayload("registry.example.com/team/app:1.0", digestA, none)
		require.NoError(t, err)
		require.Equal(t, `{"critical":{"identity":{"docker-reference":"registry.example.com/team/app:1.0"},`+
			`"image":{"docker-manifest-digest":"sha256:`+hexA+`"},`+
			`"type":"cosign container image signature"},"optional":null}`, string(body))
	}
}
