// Package configtest checks configuration files that are shipped.
package configtest

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// IsDefaults checks that a file has every flag but --config and --help, with
// its default, and no other key but lists that are no flags, which are empty.
func IsDefaults(t *testing.T, file string, flags *pflag.FlagSet, lists ...string) {
	t.Helper()
	data, err := os.ReadFile(file) //nolint:gosec // G304: a file of this repository
	require.NoError(t, err)
	var have map[string]any
	require.NoError(t, yaml.Unmarshal(data, &have))
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "config" || flag.Name == "help" {
			return
		}
		value, ok := have[flag.Name]
		delete(have, flag.Name)
		if !assert.True(t, ok, "%s lacks %s", file, flag.Name) {
			return
		}
		isDefault(t, flag, value)
	})
	for _, list := range lists {
		assert.Equal(t, []any{}, have[list], "%s: %s", file, list)
		delete(have, list)
	}
	assert.Empty(t, have, "%s has keys that are no flags", file)
}

// isDefault sets the value on a flag and compares what comes of it with the default.
func isDefault(t *testing.T, flag *pflag.Flag, value any) {
	t.Helper()
	text, ok := value.(string)
	if !ok {
		out, err := yaml.Marshal(value)
		require.NoError(t, err)
		text = strings.TrimSpace(string(out))
	}
	if list, ok := value.([]any); ok {
		words := make([]string, 0, len(list))
		for _, word := range list {
			words = append(words, word.(string)) //nolint:forcetypeassert // a test may panic
		}
		require.Implements(t, (*pflag.SliceValue)(nil), flag.Value, flag.Name)
		require.NoError(t, flag.Value.(pflag.SliceValue).Replace(words), flag.Name) //nolint:forcetypeassert // checked
	} else {
		require.NoError(t, flag.Value.Set(text), flag.Name)
	}
	assert.Equal(t, flag.DefValue, flag.Value.String(), flag.Name)
}
