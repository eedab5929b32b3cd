package sign

import (
	"fmt"
	"slices"
	"strings"

	oci "github.com/opencontainers/image-spec/specs-go/v1"
)

// anyPart matches every value of a part of a platform filter.
const anyPart = "*"

// platform is os, architecture and variant of an image, or a filter for them.
type platform struct {
	os, arch, variant string
}

// platforms are the filters of a request. None at all lets everything pass.
type platforms []platform

// parsePlatforms reads filters of the form os/arch or os/arch/variant, any
// part of which may be "*".
func parsePlatforms(filters []string) (platforms, error) {
	var parsed platforms
	for _, filter := range filters {
		parts := strings.Split(strings.ToLower(filter), "/")
		if len(parts) < 2 || len(parts) > 3 {
			return nil, &PlatformError{Platform: filter, Reason: "not os/arch or os/arch/variant"}
		}
		if slices.Contains(parts, "") {
			return nil, &PlatformError{Platform: filter, Reason: `has an empty part, use "*" for any`}
		}
		// Without a variant, every variant is meant.
		wanted := platform{os: parts[0], arch: parts[1], variant: anyPart}
		if len(parts) == 3 {
			wanted.variant = parts[2]
		}
		parsed = append(parsed, wanted)
	}
	return parsed, nil
}

// match tells whether an image of the platform is to be signed.
func (f platforms) match(have platform) bool {
	if len(f) == 0 {
		return true
	}
	return slices.ContainsFunc(f, func(want platform) bool {
		return matchPart(want.os, have.os) &&
			matchPart(want.arch, have.arch) &&
			matchPart(usualVariant(want.arch, want.variant), usualVariant(have.arch, have.variant))
	})
}

func (f platforms) String() string {
	names := make([]string, 0, len(f))
	for _, filter := range f {
		if filter.variant == anyPart {
			filter.variant = ""
		}
		names = append(names, filter.String())
	}
	return strings.Join(names, ", ")
}

func matchPart(want, have string) bool {
	return want == anyPart || want == have
}

// usualVariant spells out the variant that an architecture has when none is
// written: arm64 is arm64/v8 and arm is arm/v7 for every builder.
func usualVariant(arch, variant string) string {
	if variant != "" {
		return variant
	}
	switch arch {
	case "arm64":
		return "v8"
	case "arm":
		return "v7"
	case "amd64":
		return "v1"
	}
	return ""
}

// platformOf reads the platform of a child of an index.
func platformOf(p *oci.Platform) platform {
	return platform{
		os:      strings.ToLower(p.OS),
		arch:    strings.ToLower(p.Architecture),
		variant: strings.ToLower(p.Variant),
	}
}

// unknown tells the placeholder that builders put on children that run nowhere.
func (p platform) unknown() bool { return p.os == "unknown" || p.arch == "unknown" }

func (p platform) String() string {
	if p.os == "" && p.arch == "" {
		return ""
	}
	if p.variant == "" {
		return fmt.Sprintf("%s/%s", p.os, p.arch)
	}
	return fmt.Sprintf("%s/%s/%s", p.os, p.arch, p.variant)
}
