//go:build !containers_image_openpgp

package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/policy"
)

// What cannot be evaluated is refused as a whole, and not skipped.
func TestWithoutAnEngine(t *testing.T) {
	t.Parallel()
	_, err := load(t, `{"default":`+accept+`,"transports":{"docker":{"r.example":[{"type":"sigstoreSigned","keyData":"a2V5"}]}}}`)
	var unsupported *policy.UnsupportedError
	require.ErrorAs(t, err, &unsupported)
	require.Equal(t, "transports.docker.r.example", unsupported.Scope)
	require.ErrorContains(t, err, "make build")
	_, err = load(t, `{"default":[{"type":"reject"}]}`)
	require.NoError(t, err, "that needs no engine")
}
