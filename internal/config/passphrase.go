package config

import (
	"bytes"
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

// Passphrase finds the passphrase of a key: in the file, in the environment, or
// by asking on the terminal, if stdin is one. An empty passphrase is one. The
// caller owns the bytes and may zero them.
func Passphrase(file string, stdin *os.File, prompt io.Writer) ([]byte, error) {
	if file != "" {
		return readPassphrase(file)
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
	if _, err := io.WriteString(prompt, "Passphrase of the signing key: "); err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", err)
	}
	passphrase, err := term.ReadPassword(terminal)
	_, _ = io.WriteString(prompt, "\n")
	if err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", err)
	}
	return append([]byte{}, passphrase...), nil
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
