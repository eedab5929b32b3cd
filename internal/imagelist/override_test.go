package imagelist_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/imagelist"
)

func TestOverridesMoveAReference(t *testing.T) {
	t.Parallel()
	registry := imagelist.Options{Registry: "r.io:5000"}
	project := imagelist.Options{Project: "p"}
	both := imagelist.Options{Registry: "r.io:5000", Project: "p"}
	for _, c := range []struct {
		line                    string
		registry, project, both string
	}{
		{"nginx", "r.io:5000/library/nginx:latest", "docker.io/p/nginx:latest", "r.io:5000/p/nginx:latest"},
		{"user/nginx:1", "r.io:5000/user/nginx:1", "docker.io/p/nginx:1", "r.io:5000/p/nginx:1"},
		{"docker.io/nginx", "r.io:5000/library/nginx:latest", "docker.io/p/nginx:latest", "r.io:5000/p/nginx:latest"},
		{"reg.io/proj/nginx:1", "r.io:5000/proj/nginx:1", "reg.io/p/nginx:1", "r.io:5000/p/nginx:1"},
		{"reg.io/nginx:1", "r.io:5000/library/nginx:1", "reg.io/p/nginx:1", "r.io:5000/p/nginx:1"},
		{"reg.io/proj/a/b:1", "r.io:5000/proj/a/b:1", "reg.io/p/a/b:1", "r.io:5000/p/a/b:1"},
		{"suse/sl-micro/6.0/iso:2", "r.io:5000/suse/sl-micro/6.0/iso:2", "docker.io/p/sl-micro/6.0/iso:2", "r.io:5000/p/sl-micro/6.0/iso:2"},
		{"nginx quay.io/a/mirrored-nginx 1", "r.io:5000/a/mirrored-nginx:1", "quay.io/p/mirrored-nginx:1", "r.io:5000/p/mirrored-nginx:1"},
		{"reg.io/a/b@" + pin, "r.io:5000/a/b@" + pin, "reg.io/p/b@" + pin, "r.io:5000/p/b@" + pin},
		{"reg.io/a/b:1@" + pin, "r.io:5000/a/b:1@" + pin, "reg.io/p/b:1@" + pin, "r.io:5000/p/b:1@" + pin},
	} {
		for want, o := range map[string]imagelist.Options{c.registry: registry, c.project: project, c.both: both} {
			got := read(t, c.line, o)
			require.Len(t, got, 1)
			require.NoError(t, got[0].Err)
			require.Equal(t, want, got[0].Reference)
			require.Equal(t, c.line, got[0].Text)
		}
	}
}

func TestOverridesThatTheListCannotTake(t *testing.T) {
	t.Parallel()
	got := read(t, "reg.io/a/"+strings.Repeat("b", 250), imagelist.Options{Project: "longer"})
	require.EqualError(t, got[0].Err, `line 1: with the registry and project overrides: repository is longer than 255 characters: no registry takes it (in "reg.io/a/`+strings.Repeat("b", 111)+`")`)
}

func TestOverridesAreCheckedOnce(t *testing.T) {
	t.Parallel()
	for _, good := range []imagelist.Options{
		{},
		{Registry: "registry.example.com"},
		{Registry: "registry.example.com:5000", Project: "team"},
		{Registry: "localhost", Project: "team/prod"},
		{Registry: "[::1]:5000", Project: "a__b"},
		{Registry: "docker.io", Project: "library"},
	} {
		require.NoError(t, good.Validate())
	}
	for want, bad := range map[string]imagelist.Options{
		`registry "https://r.io/" is not valid: leave "https://" out and write "r.io"`:                                      {Registry: "https://r.io/"},
		`registry "r.io/" is not valid: leave the slash out and write "r.io"`:                                               {Registry: "r.io/"},
		`registry "r.io/team" is not valid: write the host alone, "r.io", and put "team" into the project`:                  {Registry: "r.io/team"},
		`registry "r.io:port" is not valid: write a host, like registry.example.com or registry.example.com:5000`:           {Registry: "r.io:port"},
		`registry " r.io" is not valid: write a host, like registry.example.com or registry.example.com:5000`:               {Registry: " r.io"},
		`registry "harbor" would be read as a project of docker.io: write its full name or its port, like "harbor:443"`:     {Registry: "harbor"},
		`registry "Harbor" would be read as a project of docker.io: write its full name or its port, like "Harbor:443"`:     {Registry: "Harbor"},
		`project "Team" is not valid: write it as it stands in a repository, like team or team/prod, in lower case`:         {Project: "Team"},
		`project "/team" is not valid: write it as it stands in a repository, like team or team/prod, in lower case`:        {Project: "/team"},
		`project "team/" is not valid: write it as it stands in a repository, like team or team/prod, in lower case`:        {Project: "team/"},
		`project "team:1" is not valid: write it as it stands in a repository, like team or team/prod, in lower case`:       {Project: "team:1"},
		`project "team@sha256:" is not valid: write it as it stands in a repository, like team or team/prod, in lower case`: {Project: "team@sha256:"},
	} {
		require.EqualError(t, bad.Validate(), want)
		all, err := collect(imagelist.Read(strings.NewReader("nginx\n"), bad))
		require.EqualError(t, err, want)
		require.Empty(t, all)
	}
}

func TestDockerHubHasOneName(t *testing.T) {
	t.Parallel()
	got := read(t, "reg.io/nginx:1", imagelist.Options{Registry: "index.docker.io"})
	require.Equal(t, "docker.io/library/nginx:1", got[0].Reference)
}
