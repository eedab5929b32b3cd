package imagelist_test

import (
	"strings"
	"testing"

	dockerref "github.com/distribution/reference"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/imagelist"
)

// What parses prints back to the same reference, an error means an empty one,
// and a line taken from the list and fed back alone means the same again: that
// is the promise of the failed list.
func FuzzRead(f *testing.F) {
	seeds := []string{
		"nginx\n# comment\n\n// comment\nuser/nginx:1.22\nreg.io:5000/a/b/c/d:1\n",
		"\ufeffnginx\r\nnginx@" + pin + "\r\nreg.io/a/nginx:1@" + pin + " # pinned\r\n",
		"quay.io/skopeo/stable docker.io/user/mirrored-skopeo 1.22\nlocalhost/a b\na b c d\n",
		"Upper/case\nnginx:\nngin\xff\nnginx\x00\na\rb\rc\n[::1]:5000/a:1\nhttps://reg.io/a\n",
		"\xff\xfen\x00g\x00\n\x00",
		strings.Repeat("a", 5000) + "\nnginx\n" + strings.Repeat("\r", 5000) + "\n",
	}
	for _, seed := range seeds {
		f.Add(seed, "", "")
		f.Add(seed, "r.io:5000", "team/prod")
	}
	f.Add("nginx", "localhost", "")
	f.Add("reg.io/a/b:1", "index.docker.io", "library")
	f.Fuzz(func(t *testing.T, text, registry, project string) {
		o := imagelist.Options{Registry: registry, Project: project}
		all, err := collect(imagelist.Read(strings.NewReader(text), o))
		if o.Validate() != nil {
			require.Equal(t, o.Validate(), err)
			require.Empty(t, all)
			return
		}
		last := 0
		for _, line := range all {
			require.Greater(t, line.Number, last)
			last = line.Number
			require.LessOrEqual(t, len(line.Text), 4096+len("…"))
			require.NotContains(t, line.Text, "\n")
			if line.Err != nil {
				require.Empty(t, line.Reference)
				require.Empty(t, line.Digest)
				require.NotContains(t, line.Err.Error(), "\x1b")
				continue
			}
			checkReference(t, line)
			again := read(t, line.Text, o)
			require.Len(t, again, 1)
			require.Equal(t, line.Reference, again[0].Reference)
			if registry != "" && registry != "index.docker.io" {
				require.True(t, strings.HasPrefix(line.Reference, registry+"/"), line.Reference)
			}
		}
		require.LessOrEqual(t, last, strings.Count(text, "\n")+1)
	})
}

// checkReference reads a reference as everybody else does.
func checkReference(t *testing.T, line imagelist.Line) {
	t.Helper()
	named, err := dockerref.ParseNormalizedNamed(line.Reference)
	require.NoError(t, err)
	require.Equal(t, line.Reference, named.String())
	require.False(t, dockerref.IsNameOnly(named))
	digested, ok := named.(dockerref.Digested)
	require.Equal(t, line.Digest != "", ok)
	if ok {
		require.Equal(t, line.Digest, digested.Digest().String())
	}
	own := read(t, line.Reference, imagelist.Options{})
	require.Len(t, own, 1)
	require.Equal(t, line.Reference, own[0].Reference)
	require.Equal(t, line.Digest, own[0].Digest)
}
