package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// listInMemory is the length from which on a list is copied to a file.
const listInMemory = 4 << 20

// copyList makes a copy of the list: it is read several times, may come from a
// pipe, and must stay the same to the end. A file for it has no name, so nothing
// of it is left however the program ends. ctx ends the waiting for a pipe that
// gives nothing.
func copyList(ctx context.Context, file string, stdin io.Reader) (io.ReaderAt, error) {
	type result struct {
		list io.ReaderAt
		err  error
	}
	copied := make(chan result, 1)
	go func() {
		list, err := readList(file, stdin)
		copied <- result{list, err}
	}()
	select {
	case r := <-copied:
		return r.list, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx) // a read cannot be ended: the process does that
	}
}

func readList(file string, stdin io.Reader) (io.ReaderAt, error) {
	from := stdin
	if file != "-" {
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			return nil, fmt.Errorf("image list %s: it is a directory", file)
		}
		list, err := os.Open(file) //nolint:gosec // G304: the user's own file
		if err != nil {
			return nil, fmt.Errorf("image list: %w", err)
		}
		defer list.Close() //nolint:errcheck // only read
		from = list
	}
	head, err := io.ReadAll(io.LimitReader(from, listInMemory))
	if err != nil {
		return nil, fmt.Errorf("image list %s: %w", file, err)
	}
	if len(head) < listInMemory {
		return bytes.NewReader(head), nil
	}
	copied, err := copyToFile(io.MultiReader(bytes.NewReader(head), from))
	if err != nil {
		return nil, fmt.Errorf("copy the image list %s: %w", file, err)
	}
	return copied, nil
}

// copyToFile is for lists that are too long to be held in memory.
func copyToFile(list io.Reader) (io.ReaderAt, error) {
	copied, err := os.CreateTemp("", "sign-submit-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(copied.Name()); err != nil {
		return nil, errors.Join(err, copied.Close())
	}
	if _, err := io.Copy(copied, list); err != nil {
		return nil, errors.Join(err, copied.Close())
	}
	return copied, nil
}

// cleanup gives up the copy of the list.
func (s *settings) cleanup() error {
	if file, ok := s.list.(io.Closer); ok {
		return file.Close()
	}
	return nil
}
