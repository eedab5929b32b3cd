// Package config turns flags, environment and a file into settings.
//
// It decides which of them counts: a flag before the environment, the
// environment before the file, the file before the default. It does not know
// what a setting does; the rooms validate their own options.
package config

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// envPrefix begins the names of environment variables: --nats-url is also
// SIGNFLEET_NATS_URL.
const envPrefix = "SIGNFLEET"

// Source is where the settings of one program come from.
type Source struct {
	v     *viper.Viper
	flags *pflag.FlagSet
	// File is the configuration file that was read, or "".
	File string
}

// Read reads the settings that flags define: from the flags, the environment
// and the file. An unknown key in the file is an error, unless it is one of others,
// which are those of other commands that the same file is for. Without a file name,
// the one in the environment is read, else NAME.yaml in the current directory, the user's and the system's
// configuration directory is read if it is there.
func Read(flags *pflag.FlagSet, name, file string, others ...string) (*Source, error) {
	v := viper.New()
	v.SetEnvPrefix(envPrefix)
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	if err := v.BindPFlags(flags); err != nil {
		return nil, fmt.Errorf("bind flags: %w", err)
	}
	s := &Source{v: v, flags: flags, File: file}
	if s.File == "" {
		s.File = v.GetString("config") // the flag's or the environment's
	}
	if s.File == "" {
		s.File = findFile(name)
	}
	if s.File == "" {
		return s, nil
	}
	v.SetConfigFile(s.File)
	v.SetConfigType("yaml")
	if err := v.ReadInConfig(); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", s.File, err)
	}
	return s, s.refuseUnknown(others)
}

func findFile(name string) string {
	dirs := []string{"."}
	if dir, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "signfleet"))
	}
	for _, dir := range append(dirs, "/etc/signfleet") {
		file := filepath.Join(dir, name+".yaml")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// flagsOnly are the flags that mean nothing in a file.
var flagsOnly = []string{"config", "help", "version"}

// refuseUnknown names the keys of the file that no flag defines.
func (s *Source) refuseUnknown(others []string) error {
	var unknown []string
	file := viper.New()
	file.SetConfigFile(s.File)
	file.SetConfigType("yaml")
	if err := file.ReadInConfig(); err != nil {
		return fmt.Errorf("read configuration %s: %w", s.File, err)
	}
	for _, key := range file.AllKeys() {
		if flag := s.flags.Lookup(key); (flag == nil || slices.Contains(flagsOnly, key)) && !slices.Contains(others, key) {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) == 0 {
		return s.refuseBareDurations()
	}
	slices.Sort(unknown)
	return fmt.Errorf("configuration %s: unknown key %s: keys are called as the flags are", s.File, strings.Join(unknown, ", "))
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

// Given reports whether a setting was given: by a flag or the environment, or
// by the file with another value than its default. A file may say all defaults
// without choosing any.
func (s *Source) Given(name string) bool {
	if s.flags.Changed(name) || os.Getenv(envName(name)) != "" {
		return true
	}
	flag := s.flags.Lookup(name)
	return flag != nil && s.v.InConfig(name) && s.valueText(flag) != flag.DefValue
}

// VisitGiven calls visit for each setting that was given, in the order of their
// names, with its value as one would write it on the command line: once for each
// value of a flag that takes one at a time.
func (s *Source) VisitGiven(visit func(name, value string)) {
	s.flags.VisitAll(func(flag *pflag.Flag) {
		switch {
		case !s.Given(flag.Name):
		case flag.Value.Type() == "stringArray":
			for _, value := range s.list(flag.Name) {
				visit(flag.Name, value)
			}
		case flag.Value.Type() == "stringSlice":
			visit(flag.Name, commaSeparated(s.list(flag.Name)))
		default:
			visit(flag.Name, s.valueText(flag))
		}
	})
}

// valueText is the value of a setting as its flag would print it.
func (s *Source) valueText(flag *pflag.Flag) string {
	switch flag.Value.Type() {
	case "duration":
		return s.v.GetDuration(flag.Name).String()
	case "stringSlice", "stringArray":
		return "[" + commaSeparated(s.list(flag.Name)) + "]"
	case "float64":
		return strconv.FormatFloat(s.v.GetFloat64(flag.Name), 'g', -1, 64)
	}
	return s.v.GetString(flag.Name)
}

// list is a setting of several values. One text for all of them, in the
// environment or the file, has commas between them, as when it is read Into.
func (s *Source) list(name string) []string {
	text, ok := s.v.Get(name).(string)
	switch {
	case !ok:
		return s.v.GetStringSlice(name)
	case text == "":
		return nil
	}
	return strings.Split(text, ",")
}

// commaSeparated writes values as a flag reads them: in quotes where one has a
// comma of its own.
func commaSeparated(values []string) string {
	if len(values) == 0 {
		return ""
	}
	var text strings.Builder
	w := csv.NewWriter(&text)
	_ = w.Write(values) // to memory
	w.Flush()
	return strings.TrimSuffix(text.String(), "\n")
}

func envName(name string) string {
	return envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Where names the place a given setting comes from, for people.
func (s *Source) Where(name string) string {
	switch env := envName(name); {
	case s.flags.Changed(name):
		return "--" + name
	case os.Getenv(env) != "":
		return env
	}
	return name + " in " + s.File
}

// Into fills the fields of a struct by their `mapstructure` names.
func (s *Source) Into(settings any) error {
	if err := s.v.Unmarshal(settings); err != nil {
		return fmt.Errorf("read settings: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	return nil
}
