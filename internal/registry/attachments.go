package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// AttachmentsDisabledError is a repository for which registries.d says that
// signatures are not attached to images.
type AttachmentsDisabledError struct {
	Repository string
	Scope      string // the entry, or default-docker
	File       string
}

func (e *AttachmentsDisabledError) Error() string {
	return fmt.Sprintf("%s: use-sigstore-attachments is false for %s in %s", e.Repository, e.Scope, e.File)
}

const defaultScope = "default-docker"

// attachmentRules are the use-sigstore-attachments of registries.d. The
// library that reads these files cannot be asked what they say, nor where, so
// they are read here by its rules.
type attachmentRules struct {
	byScope map[string]attachmentRule
}

type attachmentRule struct {
	use  *bool // nil: the entry says nothing of it, and a wider one may
	file string
}

// registriesFile is one file of registries.d.
type registriesFile struct {
	Default *registriesEntry           `yaml:"default-docker"`
	Docker  map[string]registriesEntry `yaml:"docker"`
}

type registriesEntry struct {
	UseSigstoreAttachments *bool `yaml:"use-sigstore-attachments"`
}

// loadAttachmentRules reads dir, or the user's, or the system's directory.
func loadAttachmentRules(dir string) (*attachmentRules, error) {
	if dir == "" {
		dir = filepath.Join(homeDir(), ".config/containers/registries.d")
		if _, err := os.Stat(dir); err != nil {
			dir = "/etc/containers/registries.d"
		}
	}
	rules := &attachmentRules{byScope: make(map[string]attachmentRule)}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return rules, nil
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".yaml") {
			continue
		}
		if err := rules.load(filepath.Join(dir, entry.Name())); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

func (r *attachmentRules) load(path string) error {
	content, err := os.ReadFile(path) //nolint:gosec // the directory is the operator's
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since the directory was read
	}
	if err != nil {
		return err
	}
	var file registriesFile
	if err := yaml.Unmarshal(content, &file); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	if file.Default != nil {
		if err := r.add(defaultScope, *file.Default, path); err != nil {
			return err
		}
	}
	for scope, entry := range file.Docker {
		if err := r.add(scope, entry, path); err != nil {
			return err
		}
	}
	return nil
}

func (r *attachmentRules) add(scope string, entry registriesEntry, path string) error {
	if first, ok := r.byScope[scope]; ok {
		return fmt.Errorf("%s is defined in %s and in %s", scope, first.file, path)
	}
	r.byScope[scope] = attachmentRule{use: entry.UseSigstoreAttachments, file: path}
	return nil
}

// AttachmentsAllowed returns an *AttachmentsDisabledError when registries.d
// says use-sigstore-attachments: false for the repository; no entry means yes.
// Where registries.conf leads the repository elsewhere, both names are asked,
// since readers ask the second.
func (c *Client) AttachmentsAllowed(repository string) error {
	at, err := c.config.resolve(repository)
	if err != nil {
		return err
	}
	if err := c.attachments.allow(repository); err != nil || at.name == repository {
		return err
	}
	return c.attachments.allow(at.name)
}

// allow follows the most specific entry that says anything.
func (r *attachmentRules) allow(repository string) error {
	scopes, err := scopesAbove(repository)
	if err != nil {
		return err
	}
	for _, scope := range append(scopes, defaultScope) {
		rule, ok := r.byScope[scope]
		if !ok || rule.use == nil {
			continue
		}
		if *rule.use {
			return nil
		}
		return &AttachmentsDisabledError{Repository: repository, Scope: scope, File: rule.file}
	}
	return nil
}
