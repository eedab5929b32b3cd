package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// flagsOnly are the flags that mean nothing in a file.
var flagsOnly = []string{"config", "help", "version"}

func isFlagOnly(name string) bool { return slices.Contains(flagsOnly, name) }

// refuseUnknown names the keys of the file that no flag defines, and what they
// may have been meant to be.
func (s *Source) refuseUnknown(others []string) error {
	file := viper.New()
	file.SetConfigFile(s.File)
	file.SetConfigType("yaml")
	if err := file.ReadInConfig(); err != nil {
		return fmt.Errorf("read configuration %s: %w", s.File, err)
	}
	if err := refuseMuddle(s.File); err != nil {
		return fmt.Errorf("read configuration %s: %w", s.File, err)
	}
	s.rules = file.Get(RulesKey) // of the environment's, nobody knows
	if s.rules == nil && file.InConfig(RulesKey) {
		return fmt.Errorf("configuration %s: %s: nothing is under it: write [] for none, which has every image signed that is asked for", s.File, RulesKey)
	}
	known := slices.Clone(others)
	s.flags.VisitAll(func(flag *pflag.Flag) {
		if !isFlagOnly(flag.Name) {
			known = append(known, flag.Name)
		}
	})
	var unknown []string
	for _, key := range slices.Sorted(slices.Values(file.AllKeys())) {
		if !slices.Contains(known, key) {
			unknown = append(unknown, suggesting(key, known))
		}
	}
	if len(unknown) == 0 {
		return s.refuseBareDurations()
	}
	return fmt.Errorf("configuration %s: unknown key %s: keys are called as the flags are", s.File, strings.Join(unknown, ", "))
}

// refuseMuddle refuses a file whose reader could not know what counts: of several
// documents, or of one key in small and in capital letters.
func refuseMuddle(path string) error {
	text, err := os.ReadFile(path) //nolint:gosec // G304: the user's own file
	if err != nil {
		return err
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var first map[string]any
	if err := documents.Decode(&first); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := documents.Decode(new(any)); !errors.Is(err, io.EOF) {
		return errors.New("it has several documents: only one would be read, take out what is behind ---")
	}
	seen := make(map[string]string)
	for _, key := range slices.Sorted(maps.Keys(first)) {
		small := strings.ToLower(key)
		if other, ok := seen[small]; ok {
			return fmt.Errorf("%s and %s are one key: give it once", other, key)
		}
		seen[small] = key
		if small == RulesKey && first[key] == nil {
			return fmt.Errorf("%s: nothing is under it: write [] for none, which has every image signed that is asked for", key)
		}
	}
	return nil
}

// suggesting is a word that is not known, with the one that it may have been
// meant to be.
func suggesting(word string, known []string) string {
	best, least := "", max(2, len(word)/3)+1
	for _, other := range known {
		if d := levenshtein.Distance(word, other, nil); d < least {
			best, least = other, d
		}
	}
	if best == "" {
		return word
	}
	return fmt.Sprintf("%s (did you mean %s?)", word, best)
}

// refuseBareDurations names the first time in the file that has no unit: a bare
// number would be taken for nanoseconds.
func (s *Source) refuseBareDurations() error {
	var err error
	s.flags.VisitAll(func(flag *pflag.Flag) {
		if err != nil || flag.Value.Type() != "duration" || !s.v.InConfig(flag.Name) || s.flags.Changed(flag.Name) {
			return
		}
		switch n := s.v.Get(flag.Name).(type) {
		case int, int64, float64:
			if s.v.GetDuration(flag.Name) == 0 {
				return
			}
			err = fmt.Errorf("configuration %s: %s: %v has no unit: write %vs or %vm", s.File, flag.Name, n, n, n)
		}
	})
	return err
}
