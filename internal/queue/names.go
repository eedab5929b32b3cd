package queue

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How the names of a fleet begin where nothing else is said.
const (
	DefaultStreamPrefix  = "SIGN"
	DefaultSubjectPrefix = "sign"
)

// names are the streams, buckets and subjects of a fleet. All of them begin with
// its prefixes, so that one account has room for several fleets.
type names struct {
	stream string // the prefix

	requests, outcomes, dead                 string // streams
	batches, ledger, locks, workers, control string // buckets

	// How subjects begin: of requests, of those of each lane, and of records.
	request, bulk, event, outcome, letter string
}

// names are made once for each connection: they are needed for every message.
func (o Options) names() names {
	stream, subject := cmp.Or(o.StreamPrefix, DefaultStreamPrefix), cmp.Or(o.SubjectPrefix, DefaultSubjectPrefix)
	return names{
		stream:   stream,
		requests: stream + "_REQUESTS", outcomes: stream + "_OUTCOMES", dead: stream + "_DEAD",
		batches: stream + "_BATCHES", ledger: stream + "_LEDGER", locks: stream + "_LOCKS",
		workers: stream + "_WORKERS", control: stream + "_CONTROL",
		request: subject + ".request.", bulk: subject + ".request.bulk.", event: subject + ".request.event.",
		outcome: subject + ".outcome.", letter: subject + ".dead.",
	}
}

var (
	streamPrefixPattern  = regexp.MustCompile(`^[A-Z0-9_-]{1,32}$`)
	subjectPrefixPattern = regexp.MustCompile(`^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$`)
)

// maxSubjectPrefix bounds what stands before every subject.
const maxSubjectPrefix = 64

// checkPrefixes refuses what would make names that the server does not take, or
// takes for something else.
func checkPrefixes(stream, subject string) error {
	switch kind, _, _ := strings.Cut(stream, "_"); {
	case stream == "": // the default
	case !streamPrefixPattern.MatchString(stream):
		return fmt.Errorf("stream-prefix: %q is not 1 to 32 capital letters, digits, _ and -", stream)
	case kind == "KV" || kind == "OBJ":
		return fmt.Errorf("stream-prefix: %q begins as the streams of NATS's own buckets do: choose one without %s", stream, kind)
	}
	switch {
	case subject == "": // the default
	case len(subject) > maxSubjectPrefix || !subjectPrefixPattern.MatchString(subject):
		return fmt.Errorf("subject-prefix: %q is not 1 to %d letters, digits, _ and -, with single dots in between", subject, maxSubjectPrefix)
	case subject[0] == '_':
		return fmt.Errorf("subject-prefix: %q begins with _, as the server's own subjects do", subject)
	}
	return nil
}

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

func (n names) bulkSubject(partition int, batch string) string {
	return n.bulk + partitionName(partition) + "." + batch
}

func (n names) eventSubject(source, batch string) string { return n.event + source + "." + batch }

func recordKey(batch, id string, gen int) string {
	return batch + "." + id + "." + strconv.Itoa(gen)
}

func (n names) outcomeSubject(batch, id string, gen int) string {
	return n.outcome + recordKey(batch, id, gen)
}

func (n names) deadSubject(batch, id string, gen int) string {
	return n.letter + recordKey(batch, id, gen)
}

// checkURLs refuses what is no URL of a NATS server. The text may have a password
// in it, so it is not told where it cannot be read.
func checkURLs(urls string) error {
	if urls == "" {
		return nil
	}
	for part := range strings.SplitSeq(urls, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part // as the client completes it
		}
		u, err := url.Parse(part)
		switch {
		case err != nil || u.Host == "":
			return errors.New("nats-url: not a URL of a server: write nats://host:port, with %2F for / and the like in a password")
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			return fmt.Errorf("nats-url: %s:// is not what a NATS server speaks: write nats, tls, ws or wss", u.Scheme)
		}
	}
	return nil
}

// RedactURL removes from NATS URLs what may be a password or a token, for people to
// read.
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
		u.RawQuery, u.Fragment = "", "" // a server is named by neither
		parts[i] = u.String()
	}
	return strings.Join(parts, ",")
}
