package queue

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
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
	line := ""
	if r.Reference == "" {
		line = string(r.Line)
	}
	var content []byte
	// With their lengths no two contents read the same. A line may be no text at
	// all, and an encoding of texts would make bad bytes equal.
	for _, list := range [][]string{{r.Batch, r.Reference, r.Digest, r.Identity, line}, r.Platforms, r.Keys} {
		content = append(strconv.AppendInt(content, int64(len(list)), 10), ' ')
		for _, s := range list {
			content = append(strconv.AppendInt(content, int64(len(s)), 10), ' ')
			content = append(content, s...)
		}
	}
	return hashName(string(content))
}

func hashName(s string) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(idEncoding.EncodeToString(sum[:]))[:26]
}

func partitionName(p int) string { return fmt.Sprintf("%02d", p) }

func bulkSubject(partition int, batch string) string {
	return "sign.request.bulk." + partitionName(partition) + "." + batch
}

func eventSubject(source, batch string) string { return "sign.request.event." + source + "." + batch }

func recordKey(batch, id string, gen int) string {
	return batch + "." + id + "." + strconv.Itoa(gen)
}

func outcomeSubject(batch, id string, gen int) string {
	return "sign.outcome." + recordKey(batch, id, gen)
}

func deadSubject(batch, id string, gen int) string {
	return "sign.dead." + recordKey(batch, id, gen)
}

// RedactURL removes passwords and tokens from NATS URLs, for people to read.
func RedactURL(urls string) string {
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
