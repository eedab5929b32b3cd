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
	for o, lines := range map[telemetry.LogOptions]int{
		{}:                         3,
		{Debug: true}:              4,
		{Quiet: true}:              2,
		{Debug: true, Quiet: true}: 4,
		{JSON: true}:               3,
	} {
		require.Equal(t, lines, strings.Count(logged(o), "\n"), "%+v", o)
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
