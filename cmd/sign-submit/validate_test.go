package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/imagelist"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
	"github.com/signfleet/signfleet/internal/sign"
)

// validatingIn is a validation in a registry that has one image, unsigned, under
// many tags.
func validatingIn(t *testing.T, lines int) (*registrytest.Registry, *validating, *sign.Verifier) {
	t.Helper()
	r := registrytest.New(t)
	var list strings.Builder
	for n := range lines {
		r.PushManifest(t, "app", fmt.Sprintf("v%d", n), "linux/amd64")
		fmt.Fprintf(&list, "%s/app:v%d\n", r.Host(), n)
	}
	insecure := false
	auth, conf := filepath.Join(t.TempDir(), "auth.json"), filepath.Join(t.TempDir(), "registries.conf")
	require.NoError(t, os.WriteFile(auth, []byte("{}"), 0o600))
	require.NoError(t, os.WriteFile(conf, nil, 0o600))
	client, err := registry.New(registry.Options{TLSVerify: &insecure, AuthFile: auth, RegistriesConf: conf})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	key, err := sign.ParsePublicKey(scriptKeys().public, nil)
	require.NoError(t, err)
	verifier, err := sign.NewVerifier(sign.VerifierOptions{Registry: client, Keys: []*sign.PublicKey{key}})
	require.NoError(t, err)
	v := &validating{File: "images.txt", list: strings.NewReader(list.String())}
	v.Signing = config.Signing{Jobs: 8, Attempts: 3, Backoff: time.Millisecond, Timeout: time.Minute, MaxWait: time.Minute}
	v.log = zap.NewNop()
	return r, v, verifier
}

func TestLinesAreToldOfInTheOrderOfTheList(t *testing.T) {
	t.Parallel()
	r, v, verifier := validatingIn(t, 300)
	// Reads are repeated before anybody hears of it, so that it takes more.
	r.Fail(registrytest.Match{Method: "GET", Kind: registrytest.KindManifest, Reference: "v7"}, registrytest.Fault{Times: 4, Status: 502})
	n := 0
	err := v.validateEach(t.Context(), verifier, func(l validatedLine) error {
		require.Equal(t, fmt.Sprintf("%s/app:v%d", r.Host(), n), l.Reference)
		require.Equal(t, lineNotValid, l.Result, l.Reason)
		require.Equal(t, string(sign.NoSignature), l.Class)
		if n == 7 {
			require.Equal(t, 2, l.attempts)
		}
		n++
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 300, n)
}

func TestWhatWasInterruptedIsNotDone(t *testing.T) {
	t.Parallel()
	_, v, verifier := validatingIn(t, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var counts validationCounts
	err := v.validateEach(ctx, verifier, func(l validatedLine) error {
		if counts.add(l); counts.Images == 10 {
			cancel()
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 100, counts.Images)
	require.GreaterOrEqual(t, counts.NotValid, 10)
	require.Positive(t, counts.NotDone)

	_, v, verifier = validatingIn(t, 100)
	full := errors.New("the disk is full")
	told := 0
	require.ErrorIs(t, v.validateEach(t.Context(), verifier, func(validatedLine) error { told++; return full }), full)
	require.Equal(t, 1, told)
}

func TestFailuresThatDoNotPassAreNotRepeated(t *testing.T) {
	t.Parallel()
	r, v, verifier := validatingIn(t, 1)
	v.list = strings.NewReader(r.Host() + "/app:none\n")
	require.NoError(t, v.validateEach(t.Context(), verifier, func(l validatedLine) error {
		require.Equal(t, lineError, l.Result)
		require.Equal(t, "not-found", l.Class)
		require.Equal(t, 1, l.attempts)
		return nil
	}))
}

// refusing is a verifier at a registry that wants to be left alone for a while.
type refusing struct{ times int }

func (r *refusing) Verify(context.Context, sign.Request) (sign.Verification, error) {
	if r.times == 0 {
		return sign.Verification{Skipped: "nothing"}, nil
	}
	r.times--
	return sign.Verification{}, &registry.Error{Status: http.StatusTooManyRequests, RetryAfter: 20 * time.Second}
}

// Being refused for now is no attempt, but has an end.
func TestWaitingOutARefusalIsNoAttempt(t *testing.T) {
	t.Parallel()
	for times, passes := range map[int]bool{14: true, 16: false, -1: false} {
		synctest.Test(t, func(t *testing.T) {
			v := &validating{}
			v.Signing = config.Signing{Attempts: 1, Backoff: time.Second, Timeout: time.Minute, MaxWait: 5 * time.Minute}
			v.log = zap.NewNop()
			began := time.Now()
			_, attempts, err := v.attempt(t.Context(), &refusing{times}, imagelist.Line{Reference: "example.com/app:1"})
			require.Equal(t, passes, err == nil, "%d times: %v", times, err)
			require.Equal(t, 1, attempts)
			require.LessOrEqual(t, time.Since(began), v.MaxWait)
		})
	}
}

// Every form of a report has the same in it.
func TestReportsOnAValidation(t *testing.T) {
	t.Parallel()
	lines := []validatedLine{
		{Line: "app:1 # yes", Reference: "docker.io/library/app:1", Result: lineValid, Digest: "sha256:a", Digests: []sign.VerifiedDigest{{
			Digest: "sha256:a", Platform: "index", Verdict: sign.Valid, Hidden: true, Warnings: []string{"one", "two"},
			Signatures: []sign.Found{
				{Format: sign.FormatTag, Key: "sha256:k", Verified: true, Identity: "docker.io/library/app:1", Annotations: map[string]string{"a": "true", "b": "1e3"}},
				{Format: sign.FormatReferrer, Key: "sha256:other"},
			},
		}}},
		{Line: "\x7f\u0085\ufeff \"null\"\n: -", Result: lineError, Class: "invalid-request", Reason: "null"},
		{Line: queue.Text([]byte{0xff}), Result: lineNotDone, Reason: "no"},
	}
	write := func(format string, lines ...validatedLine) []byte {
		path := filepath.Join(t.TempDir(), "report."+format)
		r, err := newValidationReport(path, format)
		require.NoError(t, err)
		defer r.discard()
		var counts validationCounts
		for _, l := range lines {
			counts.add(l)
			require.NoError(t, r.add(l))
		}
		require.NoFileExists(t, path, "it is not whole yet")
		require.NoError(t, r.finish(counts))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return text
	}
	var fromJSON, fromYAML any
	require.NoError(t, json.Unmarshal(write("json", lines...), &fromJSON))
	require.NoError(t, yaml.Unmarshal(write("yaml", lines...), &fromYAML))
	again, err := json.Marshal(fromYAML)
	require.NoError(t, err)
	want, err := json.Marshal(fromJSON)
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(again))
	results := fromJSON.(map[string]any)["results"].([]any)
	require.Len(t, results, 3)
	require.Equal(t, string(lines[1].Line), results[1].(map[string]any)["line"])

	rows, err := csv.NewReader(bytes.NewReader(write("csv", lines...))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 4)
	require.Equal(t, []string{"app:1 # yes", "docker.io/library/app:1", "valid", "sha256:a", "index", "sha256:a", "valid", "",
		"sha256:k", "tag", "docker.io/library/app:1", "true", "one; two"}, rows[1])

	require.JSONEq(t, `{"results":[],"summary":{"images":0,"valid":0,"not_valid":0,"skipped":0,"errors":0,"not_done":0,"hidden":0}}`, string(write("json")))
	require.Contains(t, string(write("yaml")), "results: []\nsummary:\n")
}

func TestAReportThatComesToNoEndLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "report.json")
	require.NoError(t, os.WriteFile(path, []byte("former"), 0o600))
	r, err := newValidationReport(path, outputJSON)
	require.NoError(t, err)
	require.NoError(t, r.add(validatedLine{Line: "app"}))
	r.discard()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	former, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "former", string(former))
}
