package sign

import (
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func TestReferencesAndIdentities(t *testing.T) {
	t.Parallel()
	at := "@" + string(digestA)
	for _, test := range []struct {
		name string
		req  Request
		want source
	}{
		{"tag", Request{Reference: "example.com/team/app:1"},
			source{repository: "example.com/team/app", lookup: "1", identities: []string{"example.com/team/app:1"}}},
		{"port", Request{Reference: "localhost:5000/app:1"},
			source{repository: "localhost:5000/app", lookup: "1", identities: []string{"localhost:5000/app:1"}}},
		{"docker's short name", Request{Reference: "alpine"},
			source{repository: "docker.io/library/alpine", lookup: "latest", identities: []string{"docker.io/library/alpine:latest"}}},
		{"digest is its own identity", Request{Reference: "example.com/app" + at},
			source{repository: "example.com/app", lookup: string(digestA), pins: []digest.Digest{digestA}, identities: []string{"example.com/app" + at}}},
		{"tag and digest: the digest is a pin", Request{Reference: "example.com/app:1" + at},
			source{repository: "example.com/app", lookup: "1", pins: []digest.Digest{digestA}, identities: []string{"example.com/app:1"}}},
		{"pin beside", Request{Reference: "example.com/app:1", Digest: string(digestB)},
			source{repository: "example.com/app", lookup: "1", pins: []digest.Digest{digestB}, identities: []string{"example.com/app:1"}}},
		{"identity", Request{Reference: "example.com/app:1", Identity: "public.example.com/app"},
			source{repository: "example.com/app", lookup: "1", identities: []string{"public.example.com/app"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.want.given = test.req.Reference
			got, err := parseSource(test.req, nil)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestAnUnreadableRequestIsRefused(t *testing.T) {
	t.Parallel()
	for _, req := range []Request{
		{Reference: ""},
		{Reference: "example.com/App:1"},
		{Reference: "example.com/app:"},
		{Reference: "example.com/app@sha256:abc"},
		{Reference: "https://example.com/app:1"},
		{Reference: "example.com/app:1", Digest: "sha256:abc"},
		{Reference: "example.com/app:1", Identity: "not an identity"},
		{Reference: "example.com/app:1", Identity: "example.com/\xff"},
	} {
		_, err := parseSource(req, nil)
		var wrong *ReferenceError
		require.ErrorAs(t, err, &wrong, "%+v", req)
	}
}

func TestAttachmentTag(t *testing.T) {
	t.Parallel()
	require.Equal(t, "sha256-"+hexA+".sig", attachmentTag(digestA))
}
