package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// passphraseEnv are the variables that can hold the passphrase; the second is cosign's.
var passphraseEnv = []string{"SIGNFLEET_SIGSTORE_PASSPHRASE", "COSIGN_PASSWORD"}

// ErrNoPassphrase says that an encrypted key has no passphrase to open it with.
var ErrNoPassphrase = errors.New("the key is encrypted and there is no terminal to ask for its passphrase: " +
	"give it with --sigstore-passphrase-file or in the environment variable COSIGN_PASSWORD")

// Passphrase finds the passphrase of a key: in the file that the key has for it,
// in the environment, or by asking on the terminal, if stdin is one, until ctx
// ends. An empty passphrase is one. The caller owns the bytes and may zero them.
func Passphrase(ctx context.Context, key KeyFile, stdin *os.File, prompt io.Writer) ([]byte, error) {
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
		return nil, ErrNoPassphrase
	}
	return ask(ctx, terminal, "Passphrase of the key "+key.Path+": ", prompt)
}

// ask reads a passphrase from a terminal without showing it.
func ask(ctx context.Context, terminal int, question string, prompt io.Writer) ([]byte, error) {
	usual, err := term.GetState(terminal)
	if err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", err)
	}
	if _, err := io.WriteString(prompt, question); err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", err)
	}
	type answer struct {
		passphrase []byte
		err        error
	}
	answered := make(chan answer, 1)
	go func() {
		passphrase, err := term.ReadPassword(terminal)
		answered <- answer{append([]byte{}, passphrase...), err}
	}()
	var a answer
	select {
	case a = <-answered:
	case <-ctx.Done():
		// The read cannot be ended; the terminal must not be left without echo.
		a.err = errors.Join(context.Cause(ctx), term.Restore(terminal, usual))
	}
	_, _ = io.WriteString(prompt, "\n")
	if a.err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", a.err)
	}
	return a.passphrase, nil
}

// readPassphrase takes the file's content without the line end that editors put there.
func readPassphrase(file string) ([]byte, error) {
	data, err := os.ReadFile(file) //nolint:gosec // G304: the user's own file
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	// A cut of data, since TrimRight makes nothing of an empty passphrase.
	return data[:len(bytes.TrimRight(data, "\r\n"))], nil
}
