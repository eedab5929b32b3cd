package main

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/submit"
)

const (
	loginPatience = 10 * time.Second // for one registry
	loginHead     = 10 * time.Second // for all of them, before the first image
	loginsAtOnce  = 16
)

// logIn asks each registry of the list once whether it lets us in with the
// stored credentials. A failure is a warning: the images decide, and they wait
// for the answers only for a while. wait ends what is left of the asking.
func logIn(ctx context.Context, client *registry.Client, s *settings, o submit.Options) (wait func()) {
	asking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		askRegistries(asking, client, s, o)
	}()
	select {
	case <-done:
	case <-time.After(loginHead):
	case <-ctx.Done():
	}
	return func() {
		stop()
		<-done
	}
}

func askRegistries(ctx context.Context, client *registry.Client, s *settings, o submit.Options) {
	var group errgroup.Group
	group.SetLimit(loginsAtOnce)
	for _, host := range hosts(o) {
		group.Go(func() error {
			bounded, cancel := context.WithTimeout(ctx, loginPatience)
			defer cancel()
			if err := client.Login(bounded, host); err != nil && ctx.Err() == nil {
				s.log.Warn("registry does not let us in, its images will tell", zap.String("registry", host), zap.Error(err))
			}
			return nil
		})
	}
	_ = group.Wait() // none returns an error
}

// hosts are the registries of a list, in the order in which it names them.
func hosts(o submit.Options) []string {
	var found []string
	seen := make(map[string]bool)
	for line, err := range o.Lines() {
		if err != nil {
			break // the submission tells
		}
		host, _, ok := strings.Cut(line.Reference, "/")
		if ok && !seen[host] {
			seen[host] = true
			found = append(found, host)
		}
	}
	return found
}
