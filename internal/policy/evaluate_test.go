//go:build containers_image_openpgp

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/policy"
)

// nameless is an image of which there is nothing but the name.
type nameless struct{ ref types.ImageReference }

func (n nameless) Reference() types.ImageReference { return n.ref }
func (n nameless) Manifest(context.Context) ([]byte, string, error) {
	return nil, "", errors.New("nobody looks at it")
}
func (n nameless) Signatures(context.Context) ([][]byte, error) {
	return nil, errors.New("nobody looks for them")
}

// What is decided from the file is what the engine decides.
func TestTheFileIsReadAsTheEngineReadsIt(t *testing.T) {
	t.Parallel()
	scopes := []string{"", "r.example", "r.example/a", "r.example/a/b", "r.example/a/b:1", "*.example", "r.example:5000", "docker.io", "docker.io/library/alpine"}
	images := []string{"r.example/a/b:1", "r.example/a/b:2", "r.example/a:1", "r.example/c:1", "r.example:5000/a:1", "x.r.example/a:1", "alpine:1", "team/app:1", "other.test/a:1"}
	for bits := range 1 << len(scopes) {
		docs := ""
		for i, scope := range scopes {
			if i > 0 {
				docs += ","
			}
			kind := "reject"
			if bits&(1<<i) != 0 {
				kind = "insecureAcceptAnything"
			}
			docs += fmt.Sprintf(`%q:[{"type":%q}]`, scope, kind)
		}
		text := `{"default":[{"type":"reject"}],"transports":{"docker":{` + docs + `}}}`
		parsed, err := signature.NewPolicyFromBytes([]byte(text))
		require.NoError(t, err)
		engine, err := signature.NewPolicyContext(parsed)
		require.NoError(t, err)
		p, err := load(t, text)
		require.NoError(t, err)
		for _, image := range images {
			ref, err := docker.ParseReference("//" + image)
			require.NoError(t, err)
			want, _ := engine.IsRunningImageAllowed(t.Context(), nameless{ref})
			require.Equal(t, want, p.Allow(t.Context(), image, manifest) == nil, "%s by %s", image, text)
		}
	}
}

func TestRequirementsOfTheFuture(t *testing.T) {
	t.Parallel()
	_, err := load(t, `{"default":[{"type":"of the future"}]}`)
	require.ErrorContains(t, err, "of the future")
}

// A registry that does not answer has rejected nothing.
func TestRegistryThatIsAway(t *testing.T) {
	t.Parallel()
	p, err := load(t, `{"default":[{"type":"sigstoreSigned","keyData":"a2V5"}]}`)
	require.NoError(t, err)
	err = p.Allow(t.Context(), "127.0.0.1:1/a:1", manifest)
	var access *policy.AccessError
	require.ErrorAs(t, err, &access)
	require.Zero(t, access.Status)
}
