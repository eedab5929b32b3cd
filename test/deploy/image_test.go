package deploy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The image has what make build makes, in nothing that could be broken into.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/Dockerfile")
	require.NoError(t, err)
	makefile, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	image := strings.ReplaceAll(string(text), "\\\n", " ")
	tags := regexp.MustCompile(`(?m)^TAGS +:= (\S+)$`).FindStringSubmatch(string(makefile))[1]
	for _, part := range []string{"CGO_ENABLED=0", "-trimpath", "-tags=" + tags, "-s -w", "./cmd/..."} {
		require.Contains(t, image, part)
		require.Contains(t, strings.ReplaceAll(string(makefile), "$(TAGS)", tags), part)
	}
	stages := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(image, -1)
	require.Len(t, stages, 2)
	mod, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))[1]
	require.Equal(t, "golang:"+version, stages[0][1])
	last := image[strings.LastIndex(image, "\nFROM "):]
	require.Regexp(t, `(?m)^USER 65532:65532$`, last)
	require.Regexp(t, `(?m)^HEALTHCHECK .* CMD \["/usr/local/bin/sign-worker", "health"\]$`, last)
	require.Contains(t, newPrograms(t).help("sign-worker", "health"), "asks the worker on this machine")
	// What it is given by the linker is there.
	require.Contains(t, image, "github.com/signfleet/signfleet/cmd/internal/station.version=")
	station, err := os.ReadFile("../../cmd/internal/station/station.go")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^var version string$`, string(station))
}
