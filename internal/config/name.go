package config

import (
	"crypto/rand"
	"os"
	"strings"
)

// WorkerName makes a name that no other worker has: the host's, as far as it
// can be part of one, and six random characters.
func WorkerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, host)
	return name[:min(len(name), 40)] + "-" + strings.ToLower(rand.Text()[:6])
}
