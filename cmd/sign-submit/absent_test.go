package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// Whoever waits for a fleet is told once, and only when it is known that no
// worker has been alive for a while.
func TestTellWithoutWorkers(t *testing.T) {
	t.Parallel()
	one := []queue.Presence{{Worker: "one"}}
	lost := errors.New("no answer")
	for name, test := range map[string]struct {
		present func(asked int) ([]queue.Presence, error)
		after   time.Duration
		told    bool
	}{
		"none":                {func(int) ([]queue.Presence, error) { return nil, nil }, time.Hour, true},
		"none for a moment":   {func(int) ([]queue.Presence, error) { return nil, nil }, withoutPatience - time.Second, false},
		"one":                 {func(int) ([]queue.Presence, error) { return one, nil }, time.Hour, false},
		"one that goes away":  {func(n int) ([]queue.Presence, error) { return one[:max(0, 1-n/5)], nil }, time.Hour, true},
		"nobody knows":        {func(int) ([]queue.Presence, error) { return nil, lost }, time.Hour, false},
		"one comes just soon": {func(n int) ([]queue.Presence, error) { return one[:min(n/2, 1)], nil }, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var said bytes.Buffer
				asked := 0
				done := tellWithoutWorkers(t.Context(), func(context.Context) ([]queue.Presence, error) {
					asked++
					return test.present(asked)
				}, newProgress(&said))
				time.Sleep(test.after)
				synctest.Wait()
				done()
				if test.told {
					require.Equal(t, 1, bytes.Count(said.Bytes(), []byte("no worker is alive")))
				} else {
					require.Empty(t, said.String())
				}
			})
		})
	}
}
