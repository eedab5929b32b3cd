package sign

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	docker "github.com/distribution/reference"
)

// IdentityRule gives the images of a registry, or below a path of it, another
// name in their signatures: that of the original for a mirror's.
type IdentityRule struct {
	Prefix      string // host, or host/path
	Replacement string // what stands in its place
}

// ParseIdentityRule reads PREFIX=REPLACEMENT.
func ParseIdentityRule(text string) (IdentityRule, error) {
	refuse := func(reason string) (IdentityRule, error) {
		return IdentityRule{}, fmt.Errorf("identity %q: %s, write mirror.example.org/hub=docker.io", text, reason)
	}
	prefix, replacement, ok := strings.Cut(text, "=")
	if !ok {
		return refuse("no = in it")
	}
	for _, part := range []string{prefix, replacement} {
		// Whether it can begin a name shows when something follows it.
		named, err := docker.ParseNormalizedNamed(part + "/library/any")
		if err != nil || named.Name() != part+"/library/any" {
			return refuse(fmt.Sprintf("%q is not a registry, nor a registry and a path", part))
		}
	}
	return IdentityRule{Prefix: prefix, Replacement: replacement}, nil
}

// identities are what the signatures of an image call it: what the request
// says, else what the rules that hold for its repository make of its name, else
// its own name. suffix is the tag or digest with the sign before it.
func identities(repository, suffix, asked string, rules []IdentityRule) ([]string, error) {
	if asked != "" {
		return []string{asked}, checkIdentity(asked)
	}
	var names []string
	for _, rule := range rules {
		rest, ok := strings.CutPrefix(repository, rule.Prefix)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		name := rule.Replacement + rest + suffix
		if err := checkIdentity(name); err != nil {
			return nil, err
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		names = append(names, repository+suffix)
	}
	return names, nil
}

// IdentitiesOf are what the signatures of a reference call it by the rules, when
// nothing else was asked for. The error is a *[ReferenceError].
func IdentitiesOf(reference string, rules []IdentityRule) ([]string, error) {
	src, err := parseSource(Request{Reference: reference}, rules)
	return src.identities, err
}

// checkIdentity refuses an identity that containers/image could not read back:
// such a signature would be accepted by nobody who looks at it.
func checkIdentity(name string) error {
	if _, err := docker.ParseNormalizedNamed(name); err != nil || !utf8.ValidString(name) {
		return &ReferenceError{Reference: name, Reason: "not an identity: an image reference is needed"}
	}
	return nil
}

// repositoryOf is an identity without its tag or digest.
func repositoryOf(identity string) string {
	named, err := docker.ParseNormalizedNamed(identity)
	if err != nil {
		return identity
	}
	return named.Name()
}
