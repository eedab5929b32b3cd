package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/submit"
)

const (
	loginPatience = 30 * time.Second
	loginsAtOnce  = 8
)

// logIn asks each registry of the list once whether it lets us in with the
// stored credentials. A failure is a warning: the images decide.
func logIn(ctx context.Context, client *registry.Client, s *settings, o submit.Options) {
	var group errgroup.Group
	group.SetLimit(loginsAtOnce)
	for _, host := range hosts(o) {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, loginPatience)
			defer cancel()
			if err := client.Login(ctx, host); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
				s.log.Warn("registry does not let us in, its images will tell", zap.String("registry", host), zap.Error(err))
			}
			return nil
		})
	}
	_ = group.Wait()
}

// hosts are the registries of a list, in the order in which it names them.
func hosts(o submit.Options) []string {
	list, err := os.Open(o.File)
	if err != nil {
		return nil // the submission tells
	}
	defer list.Close() //nolint:errcheck // only read
	var found []string
	seen := make(map[string]bool)
	for line, err := range imagelist.Read(list, o.List) {
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
