package config_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/config"
)

// noTerminal is a standard input that is none.
func noTerminal(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// noPassphrase clears the variables that can hold one.
func noPassphrase(t *testing.T) {
	t.Helper()
	for _, name := range []string{"SIGNFLEET_SIGSTORE_PASSPHRASE", "COSIGN_PASSWORD"} {
		t.Setenv(name, "") // puts back what was there
		require.NoError(t, os.Unsetenv(name))
	}
}

func TestPassphraseFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		"secret":             "secret",
		"secret\n":           "secret",
		"secret\r\n":         "secret",
		"  two words \t\n":   "  two words \t",
		"two\nlines\n":       "two\nlines",
		"":                   "",
		"\n":                 "",
		"\xff not text \x00": "\xff not text \x00",
	} {
		file := writeFile(t, filepath.Join(dir, "pass.txt"), text)
		got, err := config.Passphrase(t.Context(), config.KeyFile{Passphrase: file}, noTerminal(t), io.Discard)
		require.NoError(t, err)
		require.NotNil(t, got, "an empty passphrase is one")
		require.Equal(t, want, string(got))
	}
	_, err := config.Passphrase(t.Context(), config.KeyFile{Passphrase: filepath.Join(dir, "none")}, noTerminal(t), io.Discard)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPassphraseInTheEnvironment(t *testing.T) {
	noPassphrase(t)
	get := func() string {
		t.Helper()
		got, err := config.Passphrase(t.Context(), config.KeyFile{Path: "cosign.key"}, noTerminal(t), io.Discard)
		require.NoError(t, err)
		require.NotNil(t, got)
		return string(got)
	}
	t.Setenv("COSIGN_PASSWORD", "")
	require.Empty(t, get(), "an empty passphrase is one")
	t.Setenv("COSIGN_PASSWORD", "of cosign\n")
	require.Equal(t, "of cosign\n", get(), "as it is")
	t.Setenv("SIGNFLEET_SIGSTORE_PASSPHRASE", "ours")
	require.Equal(t, "ours", get())
	file := writeFile(t, filepath.Join(t.TempDir(), "pass.txt"), "of the file")
	got, err := config.Passphrase(t.Context(), config.KeyFile{Passphrase: file}, noTerminal(t), io.Discard)
	require.NoError(t, err)
	require.Equal(t, "of the file", string(got))
}

func TestPassphraseWithoutTerminal(t *testing.T) {
	noPassphrase(t)
	var prompt bytes.Buffer
	_, err := config.Passphrase(t.Context(), config.KeyFile{Path: "cosign.key"}, noTerminal(t), &prompt)
	require.ErrorIs(t, err, config.ErrNoPassphrase)
	require.ErrorContains(t, err, "--sigstore-passphrase-file")
	require.Empty(t, prompt.String(), "nobody is there to be asked")
	_, err = config.Passphrase(t.Context(), config.KeyFile{Path: "cosign.key"}, nil, &prompt)
	require.ErrorIs(t, err, config.ErrNoPassphrase)
}
