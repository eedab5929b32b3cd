// Package policy decides from containers-policy.json(5) whether images may be
// signed.
//
// So far it knows one answer: a policy that accepts everything is obeyed, and
// any other is refused as a whole, because evaluating it is not built yet. It
// never skips a requirement in silence.
package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// acceptAnything is the one requirement that needs no evaluation.
const acceptAnything = "insecureAcceptAnything"

// UnsupportedError is a policy with requirements that cannot be evaluated.
type UnsupportedError struct {
	File        string
	Scope       string
	Requirement string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("policy %s asks for %q (%s), which this version cannot evaluate: "+
		"nothing is signed against a policy; give another file with --policy, or --insecure-policy to sign without any",
		e.File, e.Requirement, e.Scope)
}

// DefaultFiles are the places where a policy is looked for when none is named,
// as podman does: the user's, then the system's.
func DefaultFiles(home string) []string {
	files := []string{"/etc/containers/policy.json"}
	if home != "" {
		files = slices.Insert(files, 0, filepath.Join(home, ".config", "containers", "policy.json"))
	}
	return files
}

// Find returns the first file that exists, or "" when there is none.
func Find(files []string) (string, error) {
	for _, file := range files {
		switch _, err := os.Stat(file); {
		case err == nil:
			return file, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("look for a policy: %w", err)
		}
	}
	return "", nil
}

// Check returns an *UnsupportedError for a policy that does not accept
// everything, and another error for a file that is no policy. It reads as
// strictly as those who evaluate policies do: what is written there twice or
// under a name they would not know must not be lost.
func Check(file string) error {
	data, err := os.ReadFile(file) //nolint:gosec // G304: the user's own policy
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	var policy document
	if err := decodeStrictly(data, &policy); err != nil {
		return fmt.Errorf("read policy %s: %w", file, err)
	}
	if len(policy.Default) == 0 {
		return fmt.Errorf("read policy %s: it has no default", file)
	}
	if err := checkScope(file, "default", policy.Default); err != nil {
		return err
	}
	for _, transport := range slices.Sorted(maps.Keys(policy.Transports)) {
		scopes := policy.Transports[transport]
		for _, scope := range slices.Sorted(maps.Keys(scopes)) {
			if err := checkScope(file, "transports."+transport+"."+scope, scopes[scope]); err != nil {
				return err
			}
		}
	}
	return nil
}

// document is a policy file.
type document struct {
	Default    []requirement                       `json:"default"`
	Transports map[string]map[string][]requirement `json:"transports"`
}

// requirement is one requirement, with the members of its type.
type requirement map[string]json.RawMessage

// checkScope looks at the requirements for one scope.
func checkScope(file, scope string, requirements []requirement) error {
	if len(requirements) == 0 {
		return fmt.Errorf("read policy %s: no requirements for %s", file, scope)
	}
	for _, r := range requirements {
		var name string
		if err := json.Unmarshal(r["type"], &name); err != nil {
			return fmt.Errorf("read policy %s: a requirement for %s has no type", file, scope)
		}
		if name != acceptAnything {
			return &UnsupportedError{File: file, Scope: scope, Requirement: name}
		}
		if len(r) > 1 {
			return fmt.Errorf("read policy %s: %s for %s with something beside it", file, acceptAnything, scope)
		}
	}
	return nil
}
