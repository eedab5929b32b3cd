package config

import (
	"fmt"
	"io"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/signfleet/signfleet/internal/queue"
)

// Print writes all settings as a configuration file has them, each that is not
// its default with a comment that says where it comes from. Passwords in URLs
// are masked; other secrets are not settings, only the files that hold them.
func (s *Source) Print(w io.Writer) error {
	document := &yaml.Node{Kind: yaml.MappingNode}
	add := func(name, from string, value any) error {
		key, content := new(yaml.Node), new(yaml.Node)
		key.SetString(name)
		if err := content.Encode(value); err != nil {
			return fmt.Errorf("print %s: %w", name, err)
		}
		if content.Kind == yaml.SequenceNode && len(content.Content) > 0 && content.Content[0].Kind == yaml.MappingNode {
			key.LineComment = from // before the list, which goes over several lines
		} else if content.LineComment = from; content.Kind == yaml.SequenceNode {
			content.Style = yaml.FlowStyle
		}
		document.Content = append(document.Content, key, content)
		return nil
	}
	var err error
	s.flags.VisitAll(func(flag *pflag.Flag) {
		if err != nil || isFlagOnly(flag.Name) {
			return
		}
		from := ""
		if s.Given(flag.Name) {
			from = s.placeOf(flag.Name)
		}
		err = add(flag.Name, from, s.value(flag))
	})
	if err == nil && s.rules != nil {
		err = add(RulesKey, s.File, s.rules)
	}
	if err != nil {
		return err
	}
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(document); err != nil {
		return fmt.Errorf("print the settings: %w", err)
	}
	return encoder.Close()
}

// placeOf is where a given setting comes from.
func (s *Source) placeOf(name string) string {
	if s.flags.Changed(name) || s.fromEnvironment(name) {
		return s.Where(name)
	}
	return s.File
}

// value is a setting as a file has it.
func (s *Source) value(flag *pflag.Flag) any {
	switch flag.Value.Type() {
	case "bool":
		return s.v.GetBool(flag.Name)
	case "int":
		return s.v.GetInt(flag.Name)
	case "float64":
		return s.v.GetFloat64(flag.Name)
	case "stringSlice", "stringArray":
		return append([]string{}, s.list(flag.Name)...)
	}
	if text := s.valueText(flag); flag.Name != natsURL || text == "" {
		return text
	}
	return queue.RedactURL(s.v.GetString(natsURL))
}
