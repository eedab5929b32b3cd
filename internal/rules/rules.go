// Package rules finds the rule that an image falls under: what a worker may
// sign is what its own configuration allows, whoever asks for it.
//
// It decides which images a pattern means, and that the first rule that matches
// is the one that counts. It does not know what a rule lets anybody do: keys,
// formats and identities are words that it carries.
package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	docker "github.com/distribution/reference"
)

// Rule says of some images whether they are signed, and with what.
type Rule struct {
	// Match are patterns, one of which an image has to match: see [New].
	Match []string
	// Deny has these images not signed at all.
	Deny bool
	// Keys name the keys that sign; none: all there are.
	Keys []string
	// Formats of the signatures; none: those for all images.
	Formats []string
	// Identities are what signatures call these images, as prefix=replacement;
	// none: those for all images.
	Identities []string
}

// List is rules in their order. The zero value has none.
type List struct {
	rules    []Rule
	patterns [][]pattern // of each rule
}

// Error is a rule that cannot be obeyed.
type Error struct {
	Rule   int // from 1
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("rule %d: %s", e.Rule, e.Reason) }

// New reads rules. A pattern is HOST/REPOSITORY, in which * stands for any part
// of a name between slashes, ** for any number of such parts, ? for one
// character, and {a,b} for either. Behind it may come :TAG, a pattern too, for
// images that have such a tag, or @ for images named by their digest alone.
// Without one of these the tag does not matter. Names are as docker completes
// them: alpine is docker.io/library/alpine. The error is an *[Error].
func New(list []Rule) (*List, error) {
	l := &List{rules: list, patterns: make([][]pattern, len(list))}
	for i, rule := range list {
		refuse := func(format string, args ...any) (*List, error) {
			return nil, &Error{Rule: i + 1, Reason: fmt.Sprintf(format, args...)}
		}
		if len(rule.Match) == 0 {
			return refuse(`it matches nothing: say with match which images it is for, "**" for all`)
		}
		if rule.Deny && len(rule.Keys)+len(rule.Formats)+len(rule.Identities) > 0 {
			return refuse("what is denied is not signed: leave out keys, format and identity, or deny")
		}
		for _, text := range rule.Match {
			p, err := parsePattern(text)
			if err != nil {
				return refuse("match %q: %v", text, err)
			}
			l.patterns[i] = append(l.patterns[i], p)
		}
	}
	return l, nil
}

// Len is how many rules there are.
func (l *List) Len() int { return len(l.rules) }

// Find returns the number of the first rule, from 0, that matches an image, and
// whether there is one. The error is that of a reference that cannot be read.
func (l *List) Find(reference string) (n int, ok bool, err error) {
	img, err := imageOf(reference)
	if err != nil {
		return 0, false, err
	}
	for n, patterns := range l.patterns {
		if slices.ContainsFunc(patterns, func(p pattern) bool { return p.matches(img) }) {
			return n, true, nil
		}
	}
	return 0, false, nil
}

// Rule is the rule of that number, from 0.
func (l *List) Rule(n int) Rule { return l.rules[n] }

// image is a reference as patterns see it.
type image struct {
	name string // host/repository
	tag  string // empty when it is named by its digest alone
}

func imageOf(reference string) (image, error) {
	named, err := docker.ParseNormalizedNamed(reference)
	if err != nil {
		return image{}, err
	}
	img := image{name: canonical(named.Name())}
	// latest is docker's meaning of a bare name, not of a name with a digest.
	if tagged, ok := docker.TagNameOnly(named).(docker.Tagged); ok {
		img.tag = tagged.Tag()
	}
	return img, nil
}

// canonical writes a name so that two ways to say one registry are one: a rule
// that denies a registry must not miss it under another spelling.
func canonical(name string) string {
	host, path, ok := strings.Cut(name, "/")
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	if !ok {
		return host
	}
	return host + "/" + path
}

// pattern is one of a rule's.
type pattern struct {
	name     string
	tag      string // empty when tags do not matter
	untagged bool   // only images named by their digest alone
}

// everything is the pattern that needs no slash.
const everything = "**"

func parsePattern(text string) (pattern, error) {
	var p pattern
	text, p.untagged = strings.CutSuffix(text, "@")
	p.name = text
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, '/') {
		p.name, p.tag = text[:i], text[i+1:]
		if !strings.Contains(p.name, "/") && p.name != everything {
			return p, fmt.Errorf("is it a host with a port? write %s/** for all that is there", text)
		}
		if p.tag == "" || strings.ContainsAny(p.tag, "/@") {
			return p, fmt.Errorf("%q is no pattern for a tag", p.tag)
		}
	}
	if p.untagged && p.tag != "" {
		return p, fmt.Errorf("an image that is named by its digest alone has no tag: write either :%s or @", p.tag)
	}
	if p.name == everything {
		return p, checkGlobs(p)
	}
	host, path, ok := strings.Cut(p.name, "/")
	switch {
	case braceHolds(p.name, ":/"):
		return p, fmt.Errorf("braces are for a part of a name: write one pattern for each registry or path")
	case globInPort(host):
		return p, fmt.Errorf("a port is written as it is, and not as a pattern")
	case strings.HasSuffix(path, "/"):
		return p, fmt.Errorf("nothing follows the last slash: write %s** for all that is there", p.name)
	case strings.ContainsAny(p.name, " \t"):
		return p, fmt.Errorf("there is a blank in it")
	case host == "index.docker.io", host == "docker.io" && !strings.ContainsAny(path, "/*?[{"):
		return p, fmt.Errorf("names are completed before they are compared: write docker.io/library/%s", path)
	case starsInWord(p.name):
		return p, fmt.Errorf("** stands between slashes alone: write /** for all below")
	case strings.ToLower(path) != path:
		return p, fmt.Errorf("repositories are written in lower case, so this matches none")
	case strings.Contains(p.name, "@"):
		return p, fmt.Errorf("a rule is for names and tags: write the name, with @ behind it for images named by digest")
	case !ok:
		return p, fmt.Errorf("a host and a repository are needed: write %s/** for a registry, or docker.io/library/%s for an image of Docker Hub", text, text)
	case host == "" || path == "" || strings.Contains(p.name, "//"):
		return p, fmt.Errorf("a part of the name is empty")
	case host != "**" && !strings.ContainsAny(host, ".:*?[{") && host != "localhost":
		return p, fmt.Errorf("%s is no registry: write docker.io/%s for Docker Hub", host, p.name)
	}
	p.name = canonical(p.name)
	if strings.HasPrefix(p.name, "[") { // an IPv6 address, and no class of characters
		host, path, _ = strings.Cut(p.name, "/")
		p.name = strings.NewReplacer("[", `\[`, "]", `\]`).Replace(host) + "/" + path
	}
	return p, checkGlobs(p)
}

// starsInWord reports whether ** is a part of a word, where it would be no more
// than *.
func starsInWord(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part != "**" && strings.Contains(part, "**") {
			return true
		}
	}
	return false
}

// braceHolds reports whether one of some characters stands between braces.
func braceHolds(name, characters string) bool {
	depth := 0
	for _, c := range name {
		switch {
		case c == '{':
			depth++
		case c == '}':
			depth--
		case depth > 0 && strings.ContainsRune(characters, c):
			return true
		}
	}
	return false
}

func globInPort(host string) bool {
	if strings.HasPrefix(host, "[") {
		_, host, _ = strings.Cut(host, "]")
	}
	_, port, _ := strings.Cut(host, ":")
	return strings.ContainsAny(port, "*?[{")
}

func checkGlobs(p pattern) error {
	for _, glob := range []string{p.name, p.tag} {
		if !doublestar.ValidatePattern(glob) {
			return fmt.Errorf("%q is no pattern: see to its brackets and braces", glob)
		}
	}
	return nil
}

func (p pattern) matches(img image) bool {
	switch {
	case p.untagged && img.tag != "", p.tag != "" && !doublestar.MatchUnvalidated(p.tag, img.tag):
		return false
	case p.tag != "" && img.tag == "":
		return false
	}
	return doublestar.MatchUnvalidated(p.name, img.name)
}
