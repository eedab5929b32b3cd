// Command install builds pinned programs into .cache/bin and prints their
// paths: those named, or all the peers of the tests.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/signfleet/signfleet/test/peers/build"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "install:", err)
		os.Exit(1)
	}
}

func run(names []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(names) == 0 {
		names = build.Peers()
	}
	for _, name := range names {
		path, err := build.Pinned(ctx, name)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
