package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/bench/floor"
	"github.com/signfleet/signfleet/test/peers"
)

// The process that measures starts itself to sign as the floor does; so does
// the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == floorCommand {
		main()
		return
	}
	os.Exit(m.Run())
}

// What the floor leaves behind are signatures, of the index and of each child.
func TestTheFloorSigns(t *testing.T) {
	t.Parallel()
	b, err := prepare(t.Context(), "disk", t.TempDir())
	require.NoError(t, err)
	defer func() { require.NoError(t, b.close()) }()
	work, err := b.fresh(t.Context(), 1, 1, 1, 0)
	require.NoError(t, err)
	host := b.relay.Host()
	list, err := work.list(host)
	require.NoError(t, err)

	require.NoError(t, floor.Sign(t.Context(), list, b.plainKey, 1))

	image := work.images[0]
	require.NoError(t, peers.CosignVerify(t.Context(), b.registry.Access(), image.Reference(host), b.key.Public))
	require.NoError(t, peers.CosignVerifyAll(t.Context(), b.registry.Access(), b.key.Public, image.ByDigest(host)))
	require.Error(t, floor.Sign(t.Context(), list, b.plainKey, 1), "what is signed already is not what it measures")
}

// A tiny run measures all that a large one does.
func TestTinyRun(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bench.json")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{
		"-what", "engines,growth,scale", "-images", "2", "-repositories", "1", "-rounds", "1", "-jobs", "2", "-delay", "0,1ms",
		"-cosign-images", "1", "-signers", "ours,cosign,hangar,floor,floor-direct", "-sizes", "1,2", "-workers", "1,2", "-scale-images", "4", "-scale-delay", "1ms",
		"-json", file,
	}, &out, io.Discard))
	require.Contains(t, out.String(), "our span / the floor's")

	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(text, &r))
	require.Len(t, r.Engines.Cells, 2)
	for _, c := range r.Engines.Cells {
		byName := map[string]Figures{}
		for _, f := range c.Figures {
			byName[f.Signer] = f
		}
		require.InDelta(t, (1+4*3)*2+2, byName[nameFloor].Requests, 0, "a chain of 5, side by side, and the config once")
		for _, name := range []string{nameOurs, nameCosign, nameFloor} {
			f := byName[name]
			require.Positive(t, f.Wall, name)
			require.Positive(t, f.Span, name)
			require.LessOrEqual(t, f.Span, f.Wall, name)
			require.Positive(t, f.CPU, name)
			require.Positive(t, f.PeakMiB, name)
			require.Positive(t, f.RequestsPerSignature, name)
		}
	}
	require.Len(t, r.Growth.Figures, 4)
	require.Len(t, r.Growth.Targets, 3)
	require.Len(t, r.Scale.Fleets, 2)
}

func TestTargetsStandBesideWhatWasMeasured(t *testing.T) {
	t.Parallel()
	c := Cell{Jobs: 4, DelayMS: 20}
	for round, slow := range []float64{1, 3, 1} { // the machine was slow in one round, for all
		c.Runs = append(c.Runs,
			Run{Signer: nameOurs, Round: round, Signatures: 180, Wall: 2.4 * slow, Span: 2.2 * slow},
			Run{Signer: nameHangar, Round: round, Signatures: 180, Wall: 12.9 * slow},
			Run{Signer: nameCosign, Round: round, Signatures: 24, Wall: 24 * 0.1 * slow},
			Run{Signer: nameFloor, Round: round, Signatures: 180, Wall: 2.1 * slow, Span: 2 * slow},
		)
	}
	c = summarize(c, []signer{ours{}, hangar{}, cosign{}, bare{}})
	require.Len(t, c.Ratios, 3)
	verdicts := map[string]string{}
	for _, target := range c.Ratios {
		verdicts[target.Name] = target.bound() + ": " + target.verdict()
	}
	require.Equal(t, map[string]string{
		"hangar: wall a signature / ours": "at least 5: met",
		"cosign: wall a signature / ours": "at least 9: MISSED",
		"our span / the floor's":          "at most 1.3: met",
	}, verdicts)
	require.InDelta(t, 12.9/2.4, c.Ratios[0].Got, 1e-9)
	require.InDelta(t, 75.0, c.Figures[0].SignaturesPerSecond, 1e-9)

	c.DelayMS = 7
	for _, target := range engineTargets(c)[:2] {
		require.Nil(t, target.Met, "no target is set for that delay")
	}
}

func TestGrowthTargets(t *testing.T) {
	t.Parallel()
	figures := []Figures{
		{Signer: nameOurs, Images: 100, CPU: 0.3 + 0.001*300, Span: 1},
		{Signer: nameFloor, Images: 100, CPU: 9},
		{Signer: nameOurs, Images: 1000, CPU: 0.3 + 0.001*3000, Span: 10},
		{Signer: nameOurs, Images: 10_000, CPU: 30, Span: 130, PeakMiB: 150},
	}
	targets := growthTargets(figures)
	require.Len(t, targets, 3)
	require.InDelta(t, 1.0, targets[0].Got, 1e-9)
	require.True(t, *targets[0].Met)
	require.InDelta(t, 1.3, targets[1].Got, 1e-9)
	require.False(t, *targets[1].Met)
	require.False(t, *targets[2].Met)
	require.Nil(t, growthTargets(figures[:2]))
}

func TestScaleTargets(t *testing.T) {
	t.Parallel()
	targets := scaleTargets([]Fleet{{Workers: 1, Speed: 1}, {Workers: 4, Speed: 3.9}, {Workers: 8, Speed: 6.9}})
	require.Len(t, targets, 2)
	require.Nil(t, targets[0].Met, "no target is set for 4")
	require.Equal(t, "at least 7: MISSED", targets[1].bound()+": "+targets[1].verdict())
	require.Nil(t, scaleTargets([]Fleet{{Workers: 2, Speed: 1}, {Workers: 8, Speed: 4}})[0].Met, "nor beside any but one")
}

func TestFlagsThatCannotBeMeasuredAreRefused(t *testing.T) {
	t.Parallel()
	for flag, value := range map[string]string{
		"-what": "colour", "-registry": "moon", "-signers": "ours,nobody", "-jobs": "0", "-delay": "20", "-sizes": "x", "-rounds": "0",
	} {
		_, err := parse([]string{flag, value}, io.Discard)
		require.Error(t, err, flag)
	}
	c, err := parse([]string{"-what", "all", "-delay", "0,20ms"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, parts(), c.what)
	require.Equal(t, []time.Duration{0, 20 * time.Millisecond}, c.engines.Delays)
}
