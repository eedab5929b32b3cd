package station_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
	"github.com/signfleet/signfleet/internal/sign"
)

// bench is a station of a configuration file, beside a registry with an image.
type bench struct {
	*station.Station
	file  string
	image string // host/team/app:v1
}

func newBench(t *testing.T, text string) bench {
	t.Helper()
	registry := registrytest.New(t)
	for _, repository := range []string{"team/app", "other/app"} {
		registry.PushManifest(t, repository, "v1", "linux/amd64")
	}
	b := bench{file: write(t, "sign-worker.yaml", []byte(place(text, registry.Host()))), image: registry.Host() + "/team/app:v1"}
	settings, source := b.read(t)
	nobody, err := os.Open(os.DevNull)
	require.NoError(t, err)
	t.Cleanup(func() { _ = nobody.Close() })
	b.Station, err = station.New(context.WithoutCancel(t.Context()), station.Config{
		Settings: settings, Source: source, Stdin: nobody, Prompt: &bytes.Buffer{}, Log: zap.NewNop(),
	})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	conn := queuetest.Connect(t, queuetest.StartServer(t), queue.Options{AckWait: 30 * time.Second})
	_, err = b.Worker(conn, station.Limits(settings, "w1"), station.Locks(conn.Locker("w1").Lock))
	require.NoError(t, err)
	return b
}

// place has rules say HOST where the registry is meant.
func place(text, host string) string { return strings.ReplaceAll(text, "HOST", host) }

// read reads the file as sign-worker does.
func (b bench) read(t *testing.T) (config.Signing, *config.Source) {
	t.Helper()
	set := pflag.NewFlagSet("sign-worker", pflag.ContinueOnError)
	config.SigningFlags(set, station.Defaults(time.Minute))
	require.NoError(t, set.Parse([]string{"--insecure-policy", "--tls-verify=false"}))
	source, err := config.Read(set, "sign-worker", b.file, config.RulesKey)
	require.NoError(t, err)
	var s config.Signing
	require.NoError(t, source.Into(&s))
	return s, source
}

// reload has another text hold.
func (b bench) reload(t *testing.T, text string) error {
	t.Helper()
	host, _, _ := strings.Cut(b.image, "/")
	require.NoError(t, os.WriteFile(b.file, []byte(place(text, host)), 0o600))
	settings, source := b.read(t)
	return b.Reload(t.Context(), settings, source)
}

// keysOn are the keys whose signatures an image has got.
func (b bench) keysOn(t *testing.T, r sign.Request) []string {
	t.Helper()
	result, err := b.Sign(t.Context(), r)
	require.NoError(t, err)
	var keys []string
	for _, s := range result.Signed {
		keys = append(keys, s.Key)
	}
	return keys
}

func (b bench) rejected(t *testing.T, r sign.Request, reason string) {
	t.Helper()
	result, err := b.Sign(t.Context(), r)
	var no *sign.RejectedError
	require.ErrorAs(t, err, &no, "%+v", r)
	require.ErrorContains(t, err, reason)
	require.Empty(t, result.Signed)
}

func TestRulesSayWhatIsSignedAndWithWhat(t *testing.T) {
	t.Parallel()
	one, two := plain(t), plain(t)
	b := newBench(t, "sigstore-key: ["+one.private+", "+two.private+"]\n"+`
rules:
  - match: HOST/team/secret
    deny: true
  - match: HOST/team/**
    keys: `+two.private+`
    format: tag,referrer
    identity: HOST/team=docker.io/library
  - match: HOST/other/**:v*
    keys: `+one.fingerprint+"\n")
	other := strings.Replace(b.image, "/team/", "/other/", 1)

	result, err := b.Sign(t.Context(), sign.Request{Reference: b.image})
	require.NoError(t, err)
	require.Len(t, result.Signed, 2, "in both formats")
	for _, signature := range result.Signed {
		require.Equal(t, two.fingerprint, signature.Key)
	}
	require.Equal(t, []string{one.fingerprint}, b.keysOn(t, sign.Request{Reference: other}))

	// Whoever publishes a request does not choose.
	require.Equal(t, []string{two.fingerprint, two.fingerprint}, b.keysOn(t, sign.Request{Reference: b.image, Keys: []string{two.fingerprint}}))
	b.rejected(t, sign.Request{Reference: b.image, Keys: []string{one.fingerprint}}, "rule 2 does not have it signed with the key "+one.fingerprint)
	b.rejected(t, sign.Request{Reference: b.image, Keys: []string{two.fingerprint, one.fingerprint}}, "rule 2 does not have it signed with the key")
	b.keysOn(t, sign.Request{Reference: b.image, Identity: "docker.io/library/app:v1"})
	b.rejected(t, sign.Request{Reference: b.image, Identity: "docker.io/library/alpine:v1"}, "rule 2 has signatures call it docker.io/library/app:v1, not docker.io/library/alpine:v1")
	b.rejected(t, sign.Request{Reference: other, Identity: "docker.io/library/alpine:v1"}, "rule 3 has signatures call it "+other)

	host, _, _ := strings.Cut(b.image, "/")
	b.rejected(t, sign.Request{Reference: host + "/team/secret:v1"}, "rule 1 denies it")
	b.rejected(t, sign.Request{Reference: host + "/other/app:dev"}, "none of the rules is for it")
	b.rejected(t, sign.Request{Reference: "quay.io/team/app:v1"}, "none of the rules is for it")
	_, err = b.Sign(t.Context(), sign.Request{Reference: "no reference"})
	var unreadable *sign.ReferenceError
	require.ErrorAs(t, err, &unreadable)
}

func TestReload(t *testing.T) {
	t.Parallel()
	one, two := plain(t), encrypted(t, "two")
	b := newBench(t, "sigstore-key: "+one.private+"\n")
	require.Equal(t, []string{one.fingerprint}, b.keysOn(t, sign.Request{Reference: b.image}))

	// What cannot be used changes nothing.
	for text, says := range map[string]string{
		"sigstore-key: " + two.private + "\n": "the key is encrypted and there is no terminal",
		"sigstore-key: nowhere.key\n":         "nowhere.key",
		"jobs: 4\n":                           "no key to sign with",
		"sigstore-key: " + one.private + "\nrules:\n- match: '**'\n  keys: other.key\n":                                 "rule 1: keys: other.key is none of the keys",
		"sigstore-key: " + one.private + "\nrules:\n- match: alpine\n":                                                  "rule 1: match",
		"sigstore-key: " + one.private + "\nformat: bundle\n":                                                           "format",
		"sigstore-key: " + one.private + "\nrecursive: true\nskip-index: true\n":                                        "skip-index and recursive",
		"sigstore-key: " + one.private + "\nreplace-key: " + one.fingerprint + "\nreplace-pubkey: " + one.public + "\n": "is the key to sign with",
	} {
		require.ErrorContains(t, b.reload(t, text), says)
		require.Equal(t, []string{one.fingerprint}, b.Fingerprints())
		require.Equal(t, []string{one.fingerprint}, b.keysOn(t, sign.Request{Reference: b.image}))
	}

	// A second key beside the first, and then in place of it.
	both := "sigstore-key: [" + one.private + ", " + two.private + "]\nsigstore-passphrase-file: " + two.passphrase + "\n"
	require.NoError(t, b.reload(t, both))
	require.Equal(t, []string{one.fingerprint, two.fingerprint}, b.keysOn(t, sign.Request{Reference: b.image}))
	require.NoError(t, b.reload(t, "sigstore-key: "+two.private+"\nrules:\n- match: HOST/team/**\n  identity: HOST/team=docker.io/library\n"),
		"a key that is open stays so without its passphrase")
	require.Equal(t, []string{two.fingerprint}, b.keysOn(t, sign.Request{Reference: b.image, Identity: "docker.io/library/app:v1"}))
	b.rejected(t, sign.Request{Reference: b.image, Keys: []string{one.fingerprint}}, "does not have it signed with the key")

	// The same name, another key.
	third := plain(t)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(two.private), "next.key"), read(t, third.private), 0o600))
	require.NoError(t, os.Rename(filepath.Join(filepath.Dir(two.private), "next.key"), two.private))
	everything := "rules:\n- match: '**'\n"
	require.NoError(t, b.reload(t, "sigstore-key: "+two.private+"\n"+everything))
	require.Equal(t, []string{third.fingerprint}, b.Fingerprints())
}

// What holds images back does not go because a file is cut off, or away.
func TestReloadIsNoLaxerUnasked(t *testing.T) {
	t.Parallel()
	one := plain(t)
	key := "sigstore-key: " + one.private + "\n"
	b := newBench(t, key+"rules:\n- match: HOST/team/**\n  deny: true\n- match: '**'\n")
	b.rejected(t, sign.Request{Reference: b.image}, "rule 1 denies it")
	require.ErrorContains(t, b.reload(t, key), "there were some, and there are none")
	b.rejected(t, sign.Request{Reference: b.image}, "rule 1 denies it")
	require.NoError(t, b.reload(t, key+"rules:\n- match: '**'\n"))
	b.keysOn(t, sign.Request{Reference: b.image})

	// Another spelling of a registry is no other registry.
	host, path, _ := strings.Cut(b.image, "/")
	name, port, _ := strings.Cut(host, ":")
	for _, spelling := range []string{name + ":0" + port, "LOCALHOST:" + port, "[0:0:0:0:0:0:0:1]:" + port} {
		_, err := b.Sign(t.Context(), sign.Request{Reference: spelling + "/" + path})
		var unreadable *sign.ReferenceError
		require.ErrorAs(t, err, &unreadable, spelling)
	}
}

// Images that are signed while settings change are signed with the ones or the
// others, and none is lost.
func TestReloadWhileSigning(t *testing.T) {
	t.Parallel()
	one, two := plain(t), plain(t)
	b := newBench(t, "sigstore-key: "+one.private+"\n")
	ctx, stop := context.WithCancel(t.Context())
	var signing sync.WaitGroup
	signing.Go(func() {
		for ctx.Err() == nil {
			result, err := b.Sign(context.WithoutCancel(ctx), sign.Request{Reference: b.image})
			if err != nil || len(result.Signed) != 1 {
				t.Errorf("signed %v: %v", result.Signed, err)
			}
		}
	})
	for i := range 20 {
		key := []pair{two, one}[i%2]
		require.NoError(t, b.reload(t, "sigstore-key: "+key.private+"\n"))
		require.Equal(t, []string{key.fingerprint}, b.keysOn(t, sign.Request{Reference: b.image}))
	}
	stop()
	signing.Wait()
}
