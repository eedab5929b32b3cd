package queue

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// typicalRequest is one line of a list, typicalOutcome what becomes of an index
// and two children.
func typicalRequest() Request {
	return Request{
		Batch: "20260102-030405-abcdef", Seq: 7, Line: "registry.example.org/team/app:v1", Reference: "registry.example.org/team/app:v1",
		Platforms: []string{"linux/amd64", "linux/arm64"}, Timeout: Seconds(10 * time.Minute), SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func typicalOutcome() Outcome {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	signature := SignedDigest{Digest: digest, Platform: "linux/amd64", Key: digest, Format: "tag", Attachment: digest}
	return Outcome{
		Version: version, ID: strings.Repeat("a", 26), Batch: "20260102-030405-abcdef", Seq: 7,
		Line: "registry.example.org/team/app:v1", Reference: "registry.example.org/team/app:v1",
		Verdict: Signed, Digest: digest, Digests: []SignedDigest{signature, signature, signature}, Worker: "w", Attempts: 1,
	}
}

// BenchmarkEncodeRequest is what a submitter does with a line: its id, and the bytes.
func BenchmarkEncodeRequest(b *testing.B) {
	r := typicalRequest()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(r.Sealed()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeRequest(b *testing.B) {
	r := typicalRequest().Sealed()
	data, err := json.Marshal(r)
	require.NoError(b, err)
	_, err = decodeRequest(data, r.Batch)
	require.NoError(b, err)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeRequest(data, r.Batch); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeOutcome(b *testing.B) {
	o := typicalOutcome()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(o); err != nil {
			b.Fatal(err)
		}
	}
}
