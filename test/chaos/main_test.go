package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/chaos/scenario"
)

func TestListNamesEveryScenario(t *testing.T) {
	t.Parallel()
	var out, complaints bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-list"}, &out, &complaints))
	require.Empty(t, complaints.String())
	require.Len(t, strings.Split(strings.TrimSpace(out.String()), "\n"), len(scenario.All()))
	for _, s := range scenario.All() {
		require.Contains(t, out.String(), s.Does)
	}
}

func TestUnknownScenarioIsRefused(t *testing.T) {
	t.Parallel()
	var out, complaints bytes.Buffer
	require.Equal(t, 2, run(t.Context(), []string{"-scenario", "kill,peace"}, &out, &complaints))
	require.Contains(t, complaints.String(), `"peace"`)
	require.Contains(t, complaints.String(), "submitter", "the names there are must be told")
	require.Empty(t, out.String())
}

func TestFailureTellsHowToRepeatIt(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	describe(&out, &scenario.Report{
		Scenario: "kill", Dir: "/logs/here", Complaints: []string{"lost outcome: one"},
		Config: scenario.Config{Seed: 7, Images: 40, Workers: 3},
	})
	require.Contains(t, out.String(), "COMPLAINT lost outcome: one")
	require.Contains(t, out.String(), "/logs/here")
	require.Contains(t, out.String(), "-scenario kill -seed 7 -images 40 -workers 3")
}
