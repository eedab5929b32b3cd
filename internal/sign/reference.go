package sign

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	docker "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// source is where a request's image is and what its signatures will call it.
type source struct {
	given      string          // as the request has it
	repository string          // host/path, normalised as docker does
	lookup     string          // tag or digest that finds the image
	pins       []digest.Digest // what the image found must be
	identities []string        // docker-reference of the payloads
}

// checkHost refuses a second spelling of a registry: what is decided by its name
// (rules, a policy, who has a lock) would miss it, and its connections would not.
func checkHost(host string) error {
	if lower := strings.ToLower(host); lower != host {
		return fmt.Errorf("a registry is written in lower case: %s", lower)
	}
	name, port, ok := strings.Cut(host, ":")
	if strings.HasPrefix(host, "[") {
		name, port, ok = strings.Cut(host, "]:")
		name = strings.Trim(name, "[]")
	}
	if n, err := strconv.ParseUint(port, 10, 16); ok && (err != nil || strconv.FormatUint(n, 10) != port) {
		return fmt.Errorf("%q is no port, or not as ports are written", port)
	}
	if ip, err := netip.ParseAddr(name); err == nil && ip.String() != name {
		return fmt.Errorf("an address is written as %s", ip)
	}
	return nil
}

// named is the image's name, with its tag or, for want of one, its digest.
func (s source) named() string {
	if _, err := digest.Parse(s.lookup); err == nil {
		return s.repository + "@" + s.lookup
	}
	return s.repository + ":" + s.lookup
}

// parseSource reads a request's reference, pin and identity; without one in the
// request, the rules give it.
//
// A reference with tag and digest is looked up by its tag, and the digest is a
// pin: the signature will say that the tag is this image, so it has to be.
func parseSource(req Request, rules []IdentityRule) (source, error) {
	named, err := docker.ParseNormalizedNamed(req.Reference)
	if err != nil {
		return source{}, &ReferenceError{Reference: req.Reference, Reason: err.Error()}
	}
	if err := checkHost(docker.Domain(named)); err != nil {
		return source{}, &ReferenceError{Reference: req.Reference, Reason: err.Error()}
	}
	src := source{given: req.Reference, repository: named.Name()}
	suffix := ""
	if digested, ok := named.(docker.Digested); ok {
		src.lookup = digested.Digest().String()
		suffix = "@" + src.lookup
		src.pins = append(src.pins, digested.Digest())
	}
	// latest is docker's meaning of a bare name, not of a name with a digest.
	if tagged, ok := docker.TagNameOnly(named).(docker.Tagged); ok {
		src.lookup = tagged.Tag()
		suffix = ":" + src.lookup
	}
	if req.Digest != "" {
		pin, err := digest.Parse(req.Digest)
		if err != nil {
			return source{}, &ReferenceError{Reference: req.Digest, Reason: err.Error()}
		}
		src.pins = append(src.pins, pin)
	}
	if src.identities, err = identities(src.repository, suffix, req.Identity, rules); err != nil {
		return source{}, err
	}
	return src, nil
}

// attachmentTag is the tag under which the signatures of a manifest are found.
func attachmentTag(manifest digest.Digest) string {
	return strings.Replace(manifest.String(), ":", "-", 1) + ".sig"
}

var fallbackTag = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)

// isFallback tells the tag of the index that lists the referrers of a
// manifest where a registry has no referrers API (OCI distribution spec 1.1,
// "referrers tag schema").
func isFallback(tag string) bool { return fallbackTag.MatchString(tag) }
