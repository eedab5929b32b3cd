package registry_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

// scopes notes what tokens are asked for, one request after the other.
type scopes struct{ asked []string }

func (s *scopes) RoundTrip(req *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, req.URL.Query()["scope"]...)
	return http.DefaultTransport.RoundTrip(req)
}

func TestWhoOnlyReadsAsksForNoMore(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 300))
	r.PushManifest(t, "team/app", "v1", "linux/amd64")
	for readOnly, want := range map[bool]string{true: "repository:team/app:pull", false: "repository:team/app:pull,push"} {
		o, noted := withCredentials(t, machine(t), r.Host()), &scopes{}
		o.ReadOnly, o.Transport = readOnly, noted
		_, err := repositoryOf(t, newClient(t, o), r, "team/app").Manifest(t.Context(), "v1")
		require.NoError(t, err)
		require.Equal(t, []string{want}, noted.asked)
	}
}
