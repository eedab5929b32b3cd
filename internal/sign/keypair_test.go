package sign_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/sign"
)

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// only demands that a directory has just these files.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	require.ElementsMatch(t, names, found)
}

func TestAKeyPairIsWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	prefix := filepath.Join(dir, "release")
	private, public, err := sign.GenerateKey([]byte("secret"))
	require.NoError(t, err)
	require.NoError(t, sign.CheckKeyPair(prefix))
	require.NoError(t, sign.WriteKeyPair(prefix, private, public, false))
	only(t, dir, "release.key", "release.pub")
	for path, mode := range map[string]os.FileMode{prefix + ".key": 0o600, prefix + ".pub": 0o644} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode())
	}
	key, err := sign.LoadKey(prefix+".key", func() ([]byte, error) { return []byte("secret"), nil })
	require.NoError(t, err)
	half, err := sign.LoadPublicKey(prefix+".pub", nil)
	require.NoError(t, err)
	require.Equal(t, key.Fingerprint(), half.Fingerprint())
}

func TestAKeyPairIsNotOverwritten(t *testing.T) {
	t.Parallel()
	for _, there := range []string{"release.key", "release.pub"} {
		t.Run(there, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			prefix := filepath.Join(dir, "release")
			require.NoError(t, os.WriteFile(filepath.Join(dir, there), []byte("mine"), 0o600))
			require.ErrorContains(t, sign.CheckKeyPair(prefix), there+" is there already")
			err := sign.WriteKeyPair(prefix, []byte("private"), []byte("public"), false)
			require.ErrorIs(t, err, os.ErrExist)
			require.ErrorContains(t, err, there)
			only(t, dir, there)
			require.Equal(t, "mine", content(t, filepath.Join(dir, there)))

			require.NoError(t, sign.WriteKeyPair(prefix, []byte("private"), []byte("public"), true))
			only(t, dir, "release.key", "release.pub")
			require.Equal(t, "private", content(t, prefix+".key"))
			require.Equal(t, "public", content(t, prefix+".pub"))
		})
	}
}

func TestOneHalfOfAKeyPairIsNotLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	prefix := filepath.Join(dir, "release")
	require.NoError(t, os.Mkdir(prefix+".pub", 0o700))
	err := sign.WriteKeyPair(prefix, []byte("private"), []byte("public"), false)
	require.ErrorContains(t, err, "release.pub")
	only(t, dir, "release.pub")

	require.NoError(t, os.WriteFile(prefix+".key", []byte("old"), 0o600))
	err = sign.WriteKeyPair(prefix, []byte("private"), []byte("public"), true)
	require.ErrorContains(t, err, "it is a directory")
	only(t, dir, "release.key", "release.pub")
	require.Equal(t, "old", content(t, prefix+".key"), "as it was")

	require.ErrorContains(t, sign.WriteKeyPair(filepath.Join(dir, "nowhere", "release"), nil, nil, false), "no such file")
}
