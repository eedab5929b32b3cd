package config

import (
	"reflect"
	"slices"

	"github.com/spf13/pflag"
)

// Reloadable are the settings that a running worker can be given anew: what is
// signed and with what, and what it says of it. The rules are another.
var Reloadable = []string{
	"sigstore-key", "sigstore-passphrase-file",
	"format", "identity", "annotation", "record-creation-timestamp", "replace-key", "replace-pubkey",
	"skip-index", "recursive", "immutable-fallback", "report-hidden", "confirm-writes",
	"policy", "insecure-policy", "debug", "log-level",
}

// Changed are the names of the settings whose values differ from those of another
// reading of the same flags, in the order of their names, the rules last.
func (s *Source) Changed(since *Source) []string {
	var names []string
	s.flags.VisitAll(func(flag *pflag.Flag) {
		if !isFlagOnly(flag.Name) && !reflect.DeepEqual(s.value(flag), since.value(flag)) {
			names = append(names, flag.Name)
		}
	})
	if !reflect.DeepEqual(s.rules, since.rules) {
		names = append(names, RulesKey)
	}
	return names
}

// NeedRestart are those of the names that a running worker cannot be given anew.
func NeedRestart(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return name == RulesKey || slices.Contains(Reloadable, name)
	})
}
