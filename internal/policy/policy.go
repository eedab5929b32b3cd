// Package policy decides by containers-policy.json(5) whether an image may be
// signed: "sign only what carries the valid signature of its origin" is one
// entry of such a file.
//
// It decides which requirements hold for an image, from the file alone where no
// signature is asked for, and has those of signatures evaluated by the engine
// that podman and skopeo use. It never skips a requirement in silence. It does
// not know who asks, nor what an image is signed with.
package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/image/v5/docker/policyconfiguration"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// The requirements that need no look at the image.
const (
	acceptAnything = "insecureAcceptAnything"
	rejectAll      = "reject"
)

// dockerTransport is the transport whose scopes are for images in registries.
const dockerTransport = "docker"

// UnsupportedError is a policy with requirements that this program cannot evaluate.
type UnsupportedError struct {
	File        string
	Scope       string
	Requirement string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("policy %s asks for %q (%s), which this program cannot evaluate, as it was built without the tag "+
		"containers_image_openpgp: build it with make build; or give another file with --policy, or --insecure-policy to sign without any",
		e.File, e.Requirement, e.Scope)
}

// RejectedError is an image that the policy does not let be signed.
type RejectedError struct {
	Reference string
	File      string // of the policy
	Reason    string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%s is rejected by policy %s: %s", e.Reference, e.File, e.Reason)
}

// AccessError is an image whose signatures could not be read, which says nothing
// of whether the policy lets it be signed.
type AccessError struct {
	Reference string
	Status    int // of the registry's answer; 0 where there was none, or none is known
	Err       error
}

func (e *AccessError) Error() string {
	return fmt.Sprintf("read the signatures of %s that the policy asks for: %v", e.Reference, e.Err)
}

func (e *AccessError) Unwrap() error { return e.Err }

// Access is how the engine reaches registries: it has a client of its own. Empty
// paths mean the places where podman looks.
type Access struct {
	AuthFile       string
	CertsDir       string
	RegistriesConf string
	RegistriesDir  string
	TLSVerify      *bool // nil: as registries.conf says
	UserAgent      string
}

// Policy is a policy file that was read. It is safe for concurrent use.
type Policy struct {
	file     string
	document document
	engine   *engine // nil where no requirement needs it
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

// Load reads a policy. It reads as strictly as those who evaluate policies do:
// what is written there twice or under a name they would not know must not be
// lost. A key that it names and that cannot be read is an error, and so is, as an
// *[UnsupportedError], a requirement that cannot be evaluated.
func Load(file string, access Access) (*Policy, error) {
	data, err := os.ReadFile(file) //nolint:gosec // G304: the user's own policy
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	p := &Policy{file: file}
	if err := decodeStrictly(data, &p.document); err != nil {
		return nil, fmt.Errorf("read policy %s: %w", file, err)
	}
	if len(p.document.Default) == 0 {
		return nil, fmt.Errorf("read policy %s: it has no default", file)
	}
	evaluated, err := p.check()
	if err != nil || evaluated == nil {
		return p, err
	}
	p.engine, err = newEngine(data, access)
	switch {
	case errors.Is(err, errNoEngine):
		return nil, evaluated
	case err != nil:
		return nil, fmt.Errorf("read policy %s: %w", file, err)
	}
	return p, nil
}

// AcceptsAll reports that no image is rejected, whatever it carries.
func (p *Policy) AcceptsAll() bool {
	accepts := func(requirements []requirement) bool { return decide(requirements) == accepted }
	for _, scopes := range p.document.Transports {
		for _, requirements := range scopes {
			if !accepts(requirements) {
				return false
			}
		}
	}
	return accepts(p.document.Default)
}

// Allow returns nil when the policy lets an image be signed. image is its name,
// with a tag or a digest, as docker completes it, and manifest the digest of what
// it was found to be: that is what is looked at, whatever the tag means by now. Of
// an index it is the index; the manifests in it are named there by their digests,
// and are as good as it is. The error is a *[RejectedError] or an *[AccessError].
func (p *Policy) Allow(ctx context.Context, image string, manifest digest.Digest) error {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return &RejectedError{Reference: image, File: p.file, Reason: err.Error()}
	}
	// A registry with the usual port is the one without: what the policy says of
	// that by name is not passed by saying the port.
	if host, path, _ := strings.Cut(image, "/"); strings.HasSuffix(host, ":443") {
		portless := strings.TrimSuffix(host, ":443") + "/" + path
		if p.document.names(portless) {
			if err := p.Allow(ctx, portless, manifest); err != nil {
				return err
			}
		}
	}
	scope, requirements := p.document.requirementsOf(named)
	switch decide(requirements) {
	case accepted:
		return nil
	case rejected:
		return &RejectedError{Reference: image, File: p.file, Reason: "it is for " + scope + ", and rejects"}
	}
	return p.engine.allow(ctx, question{image: named, manifest: manifest, file: p.file, scope: scope})
}

// question is what the engine is asked.
type question struct {
	image       reference.Named
	manifest    digest.Digest
	file, scope string
}

// document is a policy file.
type document struct {
	Default    []requirement                       `json:"default"`
	Transports map[string]map[string][]requirement `json:"transports"`
}

// requirementsOf finds what is asked of an image, and where that stands, as
// containers-policy.json(5) has it: the image itself, its repository and what is
// above that, domains with a wildcard, the transport, and what is left.
func (d document) requirementsOf(image reference.Named) (scope string, found []requirement) {
	scopes := d.Transports[dockerTransport]
	candidates := policyconfiguration.DockerReferenceNamespaces(image)
	if identity, err := policyconfiguration.DockerReferenceIdentity(image); err == nil {
		candidates = slices.Insert(candidates, 0, identity)
	}
	for _, candidate := range append(candidates, "") {
		if requirements, ok := scopes[candidate]; ok {
			return "transports.docker." + candidate, requirements
		}
	}
	return "default", d.Default
}

// names reports whether a scope of the policy is about an image or what it is in.
func (d document) names(image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	scope, _ := d.requirementsOf(named)
	return scope != "default" && scope != "transports."+dockerTransport+"."
}

// verdict is what can be said of requirements without a look at the image.
type verdict int

const (
	accepted verdict = iota + 1
	rejected
	open
)

// decide says what comes of requirements, all of which have to be met.
func decide(requirements []requirement) verdict {
	v := accepted
	for _, r := range requirements {
		switch r.name() {
		case acceptAnything:
		case rejectAll:
			return rejected
		default:
			v = open
		}
	}
	return v
}

// requirement is one requirement, with the members of its type.
type requirement map[string]json.RawMessage

// name is the type of a requirement; empty when it has none.
func (r requirement) name() string {
	var name string
	if json.Unmarshal(r["type"], &name) != nil {
		return ""
	}
	return name
}

// check looks at all requirements. evaluated is the first that needs the engine.
func (p *Policy) check() (evaluated *UnsupportedError, err error) {
	look := func(scope string, requirements []requirement) {
		if err != nil {
			return
		}
		if err = p.checkScope(scope, requirements); err != nil {
			return
		}
		for _, r := range requirements {
			if name := r.name(); evaluated == nil && name != acceptAnything && name != rejectAll {
				evaluated = &UnsupportedError{File: p.file, Scope: scope, Requirement: name}
			}
		}
	}
	look("default", p.document.Default)
	for _, transport := range slices.Sorted(maps.Keys(p.document.Transports)) {
		scopes := p.document.Transports[transport]
		for _, scope := range slices.Sorted(maps.Keys(scopes)) {
			look("transports."+transport+"."+scope, scopes[scope])
		}
	}
	return evaluated, err
}

// checkScope looks at the requirements for one scope.
func (p *Policy) checkScope(scope string, requirements []requirement) error {
	if len(requirements) == 0 {
		return fmt.Errorf("read policy %s: no requirements for %s", p.file, scope)
	}
	for _, r := range requirements {
		switch name := r.name(); {
		case name == "":
			return fmt.Errorf("read policy %s: a requirement for %s has no type", p.file, scope)
		case name != acceptAnything && name != rejectAll:
			if err := r.checkFiles(); err != nil {
				return fmt.Errorf("read policy %s: %s for %s: %w", p.file, name, scope, err)
			}
		case len(r) > 1:
			return fmt.Errorf("read policy %s: %s for %s with something beside it", p.file, name, scope)
		}
	}
	return nil
}

// checkFiles sees that the keys and certificates of a requirement can be read:
// without them every image would be rejected.
func (r requirement) checkFiles() error {
	for _, member := range slices.Sorted(maps.Keys(r)) {
		var inner requirement
		var files []string
		var file string
		switch {
		case json.Unmarshal(r[member], &inner) == nil:
			if err := inner.checkFiles(); err != nil {
				return err
			}
			continue
		case strings.HasSuffix(member, "Path") && json.Unmarshal(r[member], &file) == nil:
			files = []string{file}
		case strings.HasSuffix(member, "Paths"):
			_ = json.Unmarshal(r[member], &files) // what is no list is for the engine to refuse
		}
		for _, file := range files {
			if _, err := os.ReadFile(file); err != nil { //nolint:gosec // G304: the policy names it
				return fmt.Errorf("%s: %w", member, err)
			}
		}
	}
	return nil
}
