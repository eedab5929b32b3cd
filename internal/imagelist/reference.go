package imagelist

import (
	_ "crypto/sha256" // linked here, so that what a line means
	_ "crypto/sha512" // does not depend on what else the program links
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	dockerref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// reference is what a line means.
type reference struct {
	text   string
	digest string
}

// parseWords reads the words of a line: one is a reference, three are the
// mirror format `source destination tag`, whose image is destination:tag. The
// reason is empty unless the line cannot be read.
func parseWords(words []string, over override) (ref reference, reason string) {
	for _, word := range words {
		if reason := badCharacter(word); reason != "" {
			return reference{}, reason
		}
	}
	switch len(words) {
	case 1:
		return parseReference(words[0], over)
	case 3:
		return parseMirror(words[0], words[1], words[2], over)
	case 2:
		return reference{}, "two columns: write name:tag, or three columns (source, destination, tag) for a mirrored image"
	default:
		return reference{}, fmt.Sprintf("%d columns: write one image a line, or three columns (source, destination, tag) for a mirrored image", len(words))
	}
}

// parseMirror reads a line of the mirror format. The source is not signed but
// has to be a reference, so that three words of prose are seldom taken for one.
func parseMirror(source, destination, tag string, over override) (ref reference, reason string) {
	if _, reason := parseNamed(source); reason != "" {
		return reference{}, "first of three columns: " + reason
	}
	named, reason := parseNamed(destination)
	if reason != "" {
		return reference{}, "second of three columns: " + reason
	}
	if !dockerref.IsNameOnly(named) {
		return reference{}, fmt.Sprintf("second of three columns, %q, has a tag or digest: leave it out, the third column is the tag", destination)
	}
	tagged, err := dockerref.WithTag(named, tag)
	if err != nil {
		return reference{}, fmt.Sprintf("third of three columns, %q, is not a tag: write 1 to 128 letters, digits, dots, dashes and underscores, the first no dot or dash", tag)
	}
	return over.apply(tagged)
}

func parseReference(word string, over override) (ref reference, reason string) {
	named, reason := parseNamed(word)
	if reason != "" {
		return reference{}, reason
	}
	return over.apply(dockerref.TagNameOnly(named))
}

// parseNamed reads a reference as Docker does: the part before the first slash
// is a registry when it has a dot or a port or is localhost, and docker.io is
// the registry otherwise; a name of one part on docker.io is in library/.
func parseNamed(word string) (named dockerref.Named, reason string) {
	named, err := dockerref.ParseNormalizedNamed(word)
	if err != nil {
		return nil, explain(word, err)
	}
	if domain := dockerref.Domain(named); !isRegistry(domain) {
		// Docker takes User/name for name on the registry "User", which
		// nobody means.
		return nil, fmt.Sprintf("upper-case letters in %q: write the repository in lower case", domain)
	}
	return named, ""
}

// isRegistry reports whether the first part of a name stays a registry when
// the name is parsed again.
func isRegistry(domain string) bool {
	return domain == "localhost" || strings.ContainsAny(domain, ".:")
}

// badCharacter names the first character of a word that no reference holds.
func badCharacter(word string) string {
	if !utf8.ValidString(word) {
		return "not UTF-8 text: save the list as UTF-8"
	}
	for _, r := range word {
		switch {
		case r == 0:
			return "NUL byte: save the list as UTF-8 text"
		case r == '\ufeff':
			return "byte order mark inside the list: remove it"
		case r > unicode.MaxASCII, r < ' ', r == 0x7f:
			return fmt.Sprintf("character %q (%U) is not allowed: write plain ASCII", r, r)
		case !isAlphanumeric(r) && !strings.ContainsRune("._-/:@[]", r):
			return fmt.Sprintf("character %q is not allowed: use letters, digits, dots, dashes and underscores", r)
		}
	}
	return ""
}

func isAlphanumeric(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// explain turns the parser's error, which mostly says "invalid reference
// format", into what is wrong with the word and what to write.
func explain(word string, err error) (reason string) {
	name, pin, pinned := strings.Cut(word, "@")
	if scheme, rest, ok := strings.Cut(word, "://"); ok {
		return fmt.Sprintf("a URL, not a reference: leave %q out and write %q", scheme+"://", rest)
	}
	if _, err := digest.Parse(pin); pinned && err != nil {
		return fmt.Sprintf("digest %q is not valid: write sha256: and 64 hexadecimal digits in lower case after the @", pin)
	}
	if errors.Is(err, dockerref.ErrNameTooLong) {
		return tooLong
	}
	if _, err := dockerref.ParseNormalizedNamed(strings.ToLower(word)); err == nil {
		return "upper-case letters in the repository: write it in lower case"
	}
	if strings.HasSuffix(name, ":") {
		return "tag is missing after the colon: write name:tag"
	}
	if strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.Contains(name, "//") {
		return "a part of the name is empty: write registry/project/name:tag"
	}
	return "not an image reference: write registry/project/name:tag or name@sha256:digest"
}

const tooLong = "repository is longer than 255 characters: no registry takes it"
