package submit

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// submissionOf is a submission of a list, without a queue.
func submissionOf(t *testing.T, batch, text string) *Submission {
	t.Helper()
	file := filepath.Join(t.TempDir(), "images.txt")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	hash, err := Options{File: file}.Hash()
	require.NoError(t, err)
	return &Submission{options: Options{File: file, Timeout: time.Minute}, batch: queue.Batch{ID: batch, List: hash}}
}

func collect(t *testing.T, s *Submission) []queue.Request {
	t.Helper()
	var all []queue.Request
	for r, err := range s.requests() {
		require.NoError(t, err)
		r.SubmittedAt = time.Time{}
		all = append(all, r)
	}
	return all
}

func TestRequestsAreTheSameEachTime(t *testing.T) {
	t.Parallel()
	const text = "\xef\xbb\xbfr.example/a:1\r\nr.example/b:1\r\n???\r\nr.example/a:1\r\n???\r\n????\r\n"
	s := submissionOf(t, "nightly", text)
	all := collect(t, s)
	require.Equal(t, all, collect(t, s))
	require.Equal(t, all, collect(t, submissionOf(t, "nightly", text)))
	require.Len(t, all, 4)
	for i, want := range []string{"r.example/a:1", "r.example/b:1", "???", "????"} {
		require.Equal(t, queue.Text(want), all[i].Line)
		require.Equal(t, i+1, all[i].Seq)
		require.Equal(t, queue.Seconds(time.Minute), all[i].Timeout)
	}
	require.Empty(t, all[2].Reference)
	require.NotEmpty(t, all[2].Problem)
	for i, r := range collect(t, submissionOf(t, "weekly", text)) {
		require.NotEqual(t, all[i].ID, r.ID, "of another batch")
	}
}

// A list may be longer than memory: what was read is let go.
func TestRequestsKeepNoLines(t *testing.T) {
	t.Parallel()
	const lines = 2000
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "r.example/application:%d # %s\n", i, strings.Repeat("x", 100))
	}
	var kept []weak.Pointer[byte]
	n := 0
	for r, err := range submissionOf(t, "nightly", text.String()).requests() {
		require.NoError(t, err)
		if n++; n <= lines/2 {
			for _, s := range []string{string(r.Line), r.Reference, r.ID} {
				kept = append(kept, weak.Make(unsafe.StringData(s)))
			}
		}
		if n == lines {
			runtime.GC()
			for _, p := range kept {
				require.Nil(t, p.Value())
			}
		}
	}
	require.Equal(t, lines, n)
}

// How fast a list turns into requests: the part of publishing that needs no server.
func BenchmarkRequests(b *testing.B) {
	const lines = 100_000
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "registry.example.org/team-%d/application-%d:v1.%d\n", i%100, i%5000, i)
	}
	o := Options{File: "images.txt", Timeout: time.Minute, Reader: func() io.Reader { return strings.NewReader(text.String()) }}
	hash, err := o.Hash()
	require.NoError(b, err)
	s := &Submission{options: o, batch: queue.Batch{ID: "nightly", List: hash}}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range s.requests() {
			require.NoError(b, err)
		}
	}
	b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "requests/s")
}
