package sign

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// maxFound bounds the signatures of one image, with all its manifests, that
	// are looked at: whoever can push to a repository can add some.
	maxFound = 20_000
	// What of the texts of one signature is kept. An identity that somebody
	// accepts is shorter.
	maxShownIdentity    = 1024
	maxShownAnnotations = 4 << 10
)

// Found is a signature as it was found on a manifest, or what is there in the
// place of one.
type Found struct {
	Format Format `json:"format"`
	// Attachment is the digest of the manifest that carries the signature. It is
	// empty where none could be looked at: then Problem alone tells of it.
	Attachment string `json:"attachment,omitempty"`
	// Key is the fingerprint of the key: of the one that has verified the
	// signature, else of the one that it claims to be by; empty when it claims none.
	Key      string `json:"key,omitempty"`
	Verified bool   `json:"verified"`
	// Identity is what the signature calls the image. Bundles do not call it
	// anything.
	Identity    string            `json:"identity,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// AnnotationsCut tells that there are more annotations than are shown.
	AnnotationsCut bool `json:"annotations_cut,omitempty"`
	// Attests is the predicate type of a bundle that is no signature but says
	// something else about the image.
	Attests string `json:"attests,omitempty"`
	// Hidden tells that cosign verify, from version 3, does not look at the
	// signature, because the manifest has a bundle too, and none by the same key.
	Hidden bool `json:"hidden,omitempty"`
	// Problem is why the signature is none, or cannot be told to be one.
	Problem string `json:"problem,omitempty"`

	foreign bool  // it is in no signature's place
	claimed bool  // it makes the claims that were asked for
	stops   bool  // containers/image goes no further when it comes to this
	unread  error // the registry's failure, which says nothing of the signature
}

// signature tells a signature that can be verified, by whomever.
func (f Found) signature() bool { return f.Problem == "" && f.Attests == "" }

// broken is something that should be a signature and is not.
func (f Found) broken(format string, args ...any) Found {
	f.Problem = fmt.Sprintf(format, args...)
	return f
}

// failed is a signature that could not be read: because it is not there, or is
// not what it should be, or because the registry failed.
func (f Found) failed(what string, err error) Found {
	f.Problem, f.stops = fmt.Sprintf("%s cannot be read: %v", what, err), f.Format == FormatTag
	var other *ConflictError // something else is in its place
	if !isNothing(err) && !errors.As(err, &other) {
		f.unread = err
	}
	return f
}

// by notes which of the keys has verified the signature.
func (f Found) by(key *PublicKey) Found {
	f.Key, f.Verified = key.Fingerprint(), true
	return f
}

// claiming notes the annotations of a signature, and whether it has those that
// were asked for. The texts among them are shown as they are, all else as JSON.
func (f Found) claiming(claims map[string]json.RawMessage, wanted map[string]string) Found {
	f.claimed = claimsAll(claims, wanted)
	if len(claims) == 0 {
		return f
	}
	f.Annotations = map[string]string{}
	room := maxShownAnnotations
	for _, key := range sortedKeys(claims) {
		text, ok := textOf(claims[key])
		if !ok {
			text = string(claims[key])
		}
		if room -= len(key) + len(text); room < 0 {
			f.AnnotationsCut = true
			break
		}
		f.Annotations[key] = text
	}
	return f
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// shown is a text of a signature of a length that can be kept.
func shown(text string) string {
	if len(text) <= maxShownIdentity {
		return text
	}
	return strings.ToValidUTF8(text[:maxShownIdentity], "") + "…"
}

// claimedKey is the fingerprint that a bundle's hint stands for: cosign makes it
// of the key just as a fingerprint is made. Any other hint names no key.
func claimedKey(hint string) string {
	sum, err := base64.StdEncoding.DecodeString(hint)
	if err != nil || len(sum) != 32 {
		return ""
	}
	return "sha256:" + hex.EncodeToString(sum)
}

// noteHidden marks the signatures under a tag that cosign does not look at from
// version 3 on, where it finds a bundle.
func noteHidden(all []Found, bundled bool) {
	for i := range all {
		if !bundled || all[i].Format != FormatTag || !all[i].signature() {
			continue
		}
		all[i].Hidden = !slices.ContainsFunc(all, func(other Found) bool {
			// To cosign an attestation by a key is a signature by it.
			counts := other.signature() || other.Attests != "" && other.Verified
			return other.Format == FormatReferrer && counts && other.Key != "" && other.Key == all[i].Key
		})
	}
}
