package queue

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The streams and buckets, as in the design.
const (
	streamRequests = "SIGN_REQUESTS"
	streamOutcomes = "SIGN_OUTCOMES"
	streamDead     = "SIGN_DEAD"

	bucketBatches = "SIGN_BATCHES"
	bucketLedger  = "SIGN_LEDGER"
	bucketLocks   = "SIGN_LOCKS"
	bucketWorkers = "SIGN_WORKERS"
	bucketControl = "SIGN_CONTROL"
)

// bulkSubjects covers the requests of all partitions of the bulk lane.
const bulkSubjects = "sign.request.bulk.>"

// namePattern is what batches, ids and event sources may be called: one token
// of a NATS subject and one key of a bucket.
var namePattern = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// ValidName reports whether s can be the name of a batch or of an event source.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// NewBatchID makes the name of a batch that was given none: its UTC time and
// six random characters.
func NewBatchID(now time.Time) string {
	return now.UTC().Format("20060102-150405") + "-" + strings.ToLower(rand.Text()[:6])
}

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// requestID names a request by its batch and what it asks for: 26 characters
// (130 bits), the same however often it is published. A line that could not be
// read has no reference and is named by its text.
func requestID(r Request) string {
	content := struct {
		Batch, Reference, Digest string
		Platforms, Keys          []string
		Identity, Line           string
	}{r.Batch, r.Reference, r.Digest, r.Platforms, r.Keys, r.Identity, ""}
	if r.Reference == "" {
		content.Line = r.Line
	}
	// No platforms are the same as an empty list of them.
	if len(r.Platforms) == 0 {
		content.Platforms = nil
	}
	if len(r.Keys) == 0 {
		content.Keys = nil
	}
	text, err := json.Marshal(content)
	if err != nil {
		panic(err) // strings alone: cannot happen
	}
	return hashName(string(text))
}

func hashName(s string) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(idEncoding.EncodeToString(sum[:]))[:26]
}

func partitionName(p int) string { return fmt.Sprintf("%02d", p) }

func bulkSubject(partition int, batch string) string {
	return "sign.request.bulk." + partitionName(partition) + "." + batch
}

func recordKey(batch, id string, gen int) string {
	return batch + "." + id + "." + strconv.Itoa(gen)
}

func outcomeSubject(batch, id string, gen int) string {
	return "sign.outcome." + recordKey(batch, id, gen)
}

func deadSubject(batch, id string, gen int) string {
	return "sign.dead." + recordKey(batch, id, gen)
}

// redactURL removes passwords and tokens from NATS URLs, for people to read.
func redactURL(urls string) string {
	parts := strings.Split(urls, ",")
	for i, part := range parts {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part // as the client completes it
		}
		u, err := url.Parse(part)
		if err != nil {
			parts[i] = "(unreadable URL)"
			continue
		}
		if u.User != nil {
			u.User = url.User("xxxxx")
		}
		parts[i] = u.String()
	}
	return strings.Join(parts, ",")
}
