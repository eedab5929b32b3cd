package sign

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Annotations of one signature are bounded: they are read on every pull.
const (
	maxAnnotations     = 64
	maxAnnotationBytes = 16 << 10
)

// ParseAnnotation reads KEY=VALUE.
func ParseAnnotation(text string) (key, value string, err error) {
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return "", "", fmt.Errorf("annotation %q: no = in it, write key=value", text)
	}
	return key, value, checkAnnotations(map[string]string{key: value})
}

// checkAnnotations refuses claims that some verifier could not read.
func checkAnnotations(claims map[string]string) error {
	size := 0
	for key, value := range claims {
		size += len(key) + len(value)
		switch {
		case key == "":
			return fmt.Errorf("annotation =%s: its key is empty", value)
		case key == "timestamp":
			return fmt.Errorf("annotation timestamp: containers/image refuses a signature with a text there; record-creation-timestamp records the time")
		case !utf8.ValidString(key) || !utf8.ValidString(value):
			return fmt.Errorf("annotation %q: not UTF-8", key)
		}
	}
	if len(claims) > maxAnnotations || size > maxAnnotationBytes {
		return fmt.Errorf("annotations: %d of %d bytes are more than the %d of %d bytes that a signature may carry",
			len(claims), size, maxAnnotations, maxAnnotationBytes)
	}
	return nil
}

// claimsAll tells whether a signature makes all the claims that are wanted.
func claimsAll(made map[string]json.RawMessage, wanted map[string]string) bool {
	for key, value := range wanted {
		if text, ok := textOf(made[key]); !ok || text != value {
			return false
		}
	}
	return true
}

// claimsNoMore tells whether a signature claims nothing that ours does not. What
// containers/image says of itself and of the time is no claim about the image.
func claimsNoMore(made map[string]json.RawMessage, ours map[string]string) bool {
	for key, value := range made {
		if key == "creator" || key == "timestamp" {
			continue
		}
		text, isText := textOf(value)
		if own, ok := ours[key]; !ok || !isText || own != text {
			return false
		}
	}
	return true
}

// textOf is the text that a claim is, if it is one.
func textOf(claim json.RawMessage) (text string, ok bool) {
	if len(claim) == 0 || claim[0] != '"' {
		return "", false
	}
	err := json.Unmarshal(claim, &text)
	return text, err == nil
}
