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
	// fileAlone is set when neither flags nor the environment count.
	fileAlone bool
	rules     any // of the file, as they stand there
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
	return s, s.readFile(others)
}

// ReadFile reads the settings that flags define from a file alone, without a look
// at the environment. The flags are only defined, and not set to anything. That
// there is no file is an error.
func ReadFile(flags *pflag.FlagSet, name, file string, others ...string) (*Source, error) {
	if file == "" {
		file = findFile(name)
	}
	if file == "" {
		return nil, fmt.Errorf("there is no %s.yaml in %s: name the file with --config", name, strings.Join(fileDirs(), ", "))
	}
	s := &Source{v: viper.New(), flags: flags, File: file, fileAlone: true}
	if err := s.v.BindPFlags(flags); err != nil {
		return nil, fmt.Errorf("bind flags: %w", err)
	}
	return s, s.readFile(others)
}

func (s *Source) readFile(others []string) error {
	s.v.SetConfigFile(s.File)
	s.v.SetConfigType("yaml")
	if err := s.v.ReadInConfig(); err != nil {
		return fmt.Errorf("read configuration %s: %w", s.File, err)
	}
	return s.refuseUnknown(others)
}

// fileDirs are where a configuration file is looked for: the current directory,
// the user's and the system's configuration directory.
func fileDirs() []string {
	dirs := []string{"."}
	if dir, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "signfleet"))
	}
	return append(dirs, "/etc/signfleet")
}

func findFile(name string) string {
	for _, dir := range fileDirs() {
		file := filepath.Join(dir, name+".yaml")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// Given reports whether a setting was given: by a flag or the environment, or
// by the file with another value than its default. A file may say all defaults
// without choosing any.
func (s *Source) Given(name string) bool {
	if s.flags.Changed(name) || s.fromEnvironment(name) {
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
	switch {
	case s.flags.Changed(name):
		return "--" + name
	case s.fromEnvironment(name):
		return envName(name)
	}
	return name + " in " + s.File
}

func (s *Source) fromEnvironment(name string) bool {
	return !s.fileAlone && os.Getenv(envName(name)) != ""
}

// Into fills the fields of a struct by their `mapstructure` names.
func (s *Source) Into(settings any) error {
	if err := s.v.Unmarshal(settings); err != nil {
		return fmt.Errorf("read settings: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	return nil
}
