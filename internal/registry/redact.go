package registry

import (
	"net/url"
	"regexp"
	"strings"
)

// Blobs are often served by redirects to signed URLs, and uploads carry their
// state in the query: whoever reads such a URL in a log can use it. So a query
// is an allow-list of keys that are known to be harmless, not a list of
// secrets.
func harmlessQueryKey(key string) bool {
	switch key {
	case "digest", "mount", "from", "n", "last", "artifactType", "tag", "service", "scope":
		return true
	}
	return false
}

const redacted = "REDACTED"

// redactURL is the text of u that may be shown to anyone.
func redactURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if u.RawQuery != "" {
		query := u.Query()
		for key := range query {
			if !harmlessQueryKey(key) {
				query[key] = []string{redacted}
			}
		}
		shown.RawQuery = query.Encode()
	}
	return shown.String()
}

var urlInText = regexp.MustCompile(`(?i)\b(https?://)([^\s"'<>@/]*@)?([^\s"'<>?]*)(\?[^\s"'<>]*)?`)

// redactText removes the queries and user infos of the URLs in a text that
// others wrote: an error of a library, a message of a registry.
func redactText(text string) string {
	return urlInText.ReplaceAllStringFunc(text, func(found string) string {
		parts := urlInText.FindStringSubmatch(found)
		shown := parts[1] + parts[3]
		if parts[4] != "" {
			shown += "?" + redacted
		}
		return shown
	})
}

// printable makes one bounded line of a text that a server chose.
func printable(text string, limit int) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return redactText(text)
}
