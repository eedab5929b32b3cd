package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/internal/telemetry"
)

// logged is what a logger writes of one line of each level.
func logged(o telemetry.LogOptions) string {
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, o)
	log.Debug("a detail")
	log.Info("image done", zap.Duration("took", 1500*time.Millisecond))
	log.Warn("careful", zap.String("reference", "r.example/a:1"))
	log.Error("image failed", zap.Error(errors.New("403")))
	return out.String()
}

func TestLevels(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		o     telemetry.LogOptions
		lines int
	}{
		{telemetry.LogOptions{}, 3},
		{telemetry.LogOptions{Debug: true}, 4},
		{telemetry.LogOptions{Quiet: true}, 2},
		{telemetry.LogOptions{Debug: true, Quiet: true}, 4},
		{telemetry.LogOptions{JSON: true}, 3},
		{telemetry.LogOptions{Level: zap.NewAtomicLevelAt(zap.ErrorLevel), Debug: true}, 1},
	} {
		require.Equal(t, test.lines, strings.Count(logged(test.o), "\n"), "%+v", test.o)
	}
}

func TestLinesForPeople(t *testing.T) {
	t.Parallel()
	require.Regexp(t, `^\d\d:\d\d:\d\d info image done \{"took": "1\.5s"\}
\d\d:\d\d:\d\d warn careful \{"reference": "r\.example/a:1"\}
\d\d:\d\d:\d\d error image failed \{"error": "403"\}
$`, logged(telemetry.LogOptions{}))
}

func TestLinesForMachines(t *testing.T) {
	t.Parallel()
	for _, line := range strings.Split(strings.TrimSpace(logged(telemetry.LogOptions{JSON: true})), "\n") {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &fields))
		require.Contains(t, fields, "level")
		require.Contains(t, fields, "msg")
		_, err := time.Parse(time.RFC3339, fields["ts"].(string))
		require.NoError(t, err)
	}
}

// A flood is cut short, but for the lines of images, of which there is one each.
func TestFloods(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	dropped := 0
	log := telemetry.NewLogger(&out, telemetry.LogOptions{JSON: true, Sampled: true, Whole: "image", OnDropped: func() { dropped++ }}).
		With(zap.String("worker", "w1"))
	images := log.Named("image")
	const many = 1000
	for range many {
		log.Warn("a registry fails")
		images.Info("image done")
	}
	require.Equal(t, many, strings.Count(out.String(), "image done"))
	require.Equal(t, many, strings.Count(out.String(), "a registry fails")+dropped)
	require.Positive(t, dropped)
	require.Equal(t, strings.Count(out.String(), "\n"), strings.Count(out.String(), `"worker":"w1"`))
}

func TestLevelChangesWhileLinesAreWritten(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	level := zap.NewAtomicLevel()
	log := telemetry.NewLogger(&out, telemetry.LogOptions{Level: level, Sampled: true})
	log.Debug("before")
	level.SetLevel(zap.DebugLevel)
	log.Debug("after")
	require.NotContains(t, out.String(), "before")
	require.Contains(t, out.String(), "after")
}

func TestFormatsAndLevels(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]bool{"auto": true, "json": true, "console": false} {
		json, err := telemetry.ParseFormat(format, &bytes.Buffer{})
		require.NoError(t, err)
		require.Equal(t, want, json, format)
	}
	_, err := telemetry.ParseFormat("xml", &bytes.Buffer{})
	require.ErrorContains(t, err, `log-format: "xml" is none of auto, json, console`)
	_, err = telemetry.ParseLevel("loud")
	require.ErrorContains(t, err, `log-level: "loud" is none of debug, info, warn, error`)
	level, err := telemetry.ParseLevel("warn")
	require.NoError(t, err)
	require.Equal(t, zap.WarnLevel, level)
}
