package config

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/term"
)

// Why there is no passphrase for a new key.
var (
	ErrNoNewPassphrase = errors.New("there is no terminal to ask for the passphrase of the new key: " +
		"give it with --passphrase-file or in the environment variable COSIGN_PASSWORD")
	ErrPassphrasesDiffer = errors.New("the two passphrases are not the same")
)

// NewPassphrase finds the passphrase for a key that is being made, as
// [Passphrase] does. On a terminal it is asked for twice, since nobody sees what
// is typed.
func NewPassphrase(ctx context.Context, key KeyFile, stdin *os.File, prompt io.Writer) ([]byte, error) {
	if key.Passphrase != "" {
		return readPassphrase(key.Passphrase)
	}
	for _, name := range passphraseEnv {
		if value, ok := os.LookupEnv(name); ok {
			return []byte(value), nil
		}
	}
	terminal := int(stdin.Fd())
	if !term.IsTerminal(terminal) {
		return nil, ErrNoNewPassphrase
	}
	first, err := ask(ctx, terminal, "Passphrase for the new key "+key.Path+": ", prompt)
	if err != nil {
		return nil, err
	}
	second, err := ask(ctx, terminal, "The same again: ", prompt)
	defer clear(second)
	switch {
	case err != nil:
		clear(first)
		return nil, err
	case !bytes.Equal(first, second):
		clear(first)
		return nil, ErrPassphrasesDiffer
	}
	return first, nil
}
