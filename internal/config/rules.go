package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/signfleet/signfleet/internal/rules"
)

// RulesKey is the key of the rules in a file. They are too much for a flag.
const RulesKey = "rules"

// The keys of a rule.
const (
	ruleMatch    = "match"
	ruleDeny     = "deny"
	ruleKeys     = "keys"
	ruleFormat   = "format"
	ruleIdentity = "identity"
)

var ruleWords = []string{ruleMatch, ruleDeny, ruleKeys, ruleFormat, ruleIdentity}

// Rules are the rules of the file, in their order: none where it has none.
func (s *Source) Rules() ([]rules.Rule, error) {
	refuse := func(err error) ([]rules.Rule, error) {
		return nil, fmt.Errorf("configuration %s: %s: %w", s.File, RulesKey, err)
	}
	value := s.rules
	if value == nil {
		return nil, nil
	}
	entries, ok := value.([]any)
	if !ok {
		return refuse(fmt.Errorf("it is no list: begin each rule with - %s: and a pattern", ruleMatch))
	}
	list := make([]rules.Rule, 0, len(entries))
	for i, entry := range entries {
		rule, err := readRule(entry)
		if err != nil {
			return refuse(&rules.Error{Rule: i + 1, Reason: err.Error()})
		}
		list = append(list, rule)
	}
	if _, err := rules.New(list); err != nil {
		return refuse(err)
	}
	return list, nil
}

// readRule reads one rule. A list of one word may be written as that word.
func readRule(entry any) (rules.Rule, error) {
	var rule rules.Rule
	words, ok := entry.(map[string]any)
	if !ok {
		return rule, fmt.Errorf("%v is no rule: write %s: and what it is for", entry, ruleMatch)
	}
	for word, value := range words {
		var err error
		switch word {
		case ruleMatch:
			rule.Match, err = textsOf(value)
		case ruleKeys:
			rule.Keys, err = textsOf(value)
		case ruleFormat:
			if rule.Formats, err = textsOf(value); err == nil {
				_, err = formats(rule.Formats)
			}
		case ruleIdentity:
			if rule.Identities, err = textsOf(value); err == nil {
				_, err = identities(rule.Identities)
			}
		case ruleDeny:
			if rule.Deny, ok = value.(bool); !ok {
				err = fmt.Errorf("%q is neither true nor false", fmt.Sprint(value))
			}
		default:
			return rule, fmt.Errorf("unknown key %s: a rule has %s", suggesting(word, ruleWords), strings.Join(ruleWords, ", "))
		}
		if err != nil {
			return rule, fmt.Errorf("%s: %w", word, err)
		}
		// An empty list would mean what a missing one means: all.
		if list, ok := value.([]any); value == nil || ok && len(list) == 0 {
			return rule, fmt.Errorf("%s: it is empty: leave it out, or say what it is", word)
		}
	}
	return rule, nil
}

func textsOf(value any) ([]string, error) {
	entries, ok := value.([]any)
	if !ok {
		entries = []any{value}
	}
	texts := make([]string, 0, len(entries))
	for _, entry := range entries {
		text, ok := entry.(string)
		if !ok {
			return nil, fmt.Errorf("%v is no text", entry)
		}
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return texts, nil
}

// Under are the settings for images that fall under a rule: those for all
// images, but for what the rule says. The keys are the caller's to choose.
func (s Signing) Under(rule rules.Rule) Signing {
	if len(rule.Formats) > 0 {
		s.Formats = rule.Formats
	}
	if len(rule.Identities) > 0 {
		s.Identities = rule.Identities
	}
	return s
}

// CheckRules refuses rules that name keys which are not among those to sign
// with, as far as that can be told without opening them: a fingerprint may be
// that of any.
func (s Signing) CheckRules(list []rules.Rule) error {
	if len(s.Keys) == 0 {
		return nil // they are named elsewhere
	}
	for i, rule := range list {
		for _, name := range rule.Keys {
			if _, ok := fingerprintOf(name); !ok && !slices.Contains(s.Keys, name) {
				return fmt.Errorf("%s: %w", RulesKey, &rules.Error{Rule: i + 1, Reason: fmt.Sprintf(
					"keys: %s is none of the keys of sigstore-key: name a key as it is named there, or by its fingerprint", name)})
			}
		}
	}
	return nil
}
