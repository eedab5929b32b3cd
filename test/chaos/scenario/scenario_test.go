package scenario_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/chaos/scenario"
	"github.com/signfleet/signfleet/test/peers/build"
)

// seed repeats a run: go test ./test/chaos/scenario -run 'TestBooksClose/kill' -seed 1234.
var seed = flag.Uint64("seed", 0, "what the random choices follow from; 0 means a new one for each scenario")

// binaries is where the commands are built, once, for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chaos-bin-")
	if err != nil {
		return "", err
	}
	return dir, build.Own(context.Background(), dir, "./cmd/...")
})

func TestMain(m *testing.M) {
	flag.Parse()
	// Nearly all of a scenario's time is spent waiting for leases to end.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "16") // the flag is there, and 16 is a number
	}
	code := m.Run()
	if dir, err := binaries(); err == nil {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "removing the binaries:", err)
		}
	}
	os.Exit(code)
}

// Whatever happens to a fleet, its books close.
func TestBooksClose(t *testing.T) {
	t.Parallel()
	for _, s := range scenario.All() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			dir, err := binaries()
			require.NoError(t, err)
			c := scenario.Config{
				Binaries: dir, Images: 40, Workers: 3, Duration: 12 * time.Second,
				Stop: 11 * time.Second, Lease: 9 * time.Second, Verify: 10, Seed: *seed,
			}
			if c.Seed == 0 {
				c.Seed = rand.Uint64()
			}
			t.Logf("%s: seed %d", s.Does, c.Seed)

			report, err := s.Run(t.Context(), c)

			require.NoError(t, err)
			t.Logf("%d lines in %s: %v, cosign verified %d; %v %v %v", report.Lines, report.Took.Round(time.Second), report.Sum, report.Verified, report.Did, report.Bounds, report.Notes)
			require.Empty(t, report.Complaints, "logs in %s; again: %s\n%s", report.Dir, report.Again(), strings.Join(report.Complaints, "\n"))
			require.Positive(t, report.Verified)
			require.NotEmpty(t, report.Did, "a fleet that nobody touched shows nothing")
			_, err = os.Stat(filepath.Join(report.Dir, "events.log"))
			require.True(t, errors.Is(err, os.ErrNotExist), "nothing is left of a run without complaints")
		})
	}
}
