package station_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/kms"
	"github.com/signfleet/signfleet/internal/kms/kmstest"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
	"github.com/signfleet/signfleet/internal/sign"
	"github.com/signfleet/signfleet/internal/worker"
)

// vault is where the environment says that keys are; each test has its own.
var vault *kmstest.Vault

func TestMain(m *testing.M) {
	vault = kmstest.StartVault()
	for name, value := range map[string]string{"VAULT_ADDR": vault.URL(), "VAULT_TOKEN": kmstest.Token, "TRANSIT_SECRET_ENGINE_PATH": "transit"} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	vault.Close()
	os.Exit(code)
}

// held is a new key in the vault.
func held(t *testing.T) (name, uri, fingerprint string) {
	t.Helper()
	name = strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	return name, "hashivault://" + name, fingerprintOf(t, publicPEM(t, vault.NewKey(name)))
}

func publicPEM(t *testing.T, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestKeyInAService(t *testing.T) {
	t.Parallel()
	name, uri, fingerprint := held(t)
	file := plain(t)
	b := newBench(t, "sigstore-key: ["+file.private+", "+uri+"]\nformat: tag,referrer\n"+`
rules:
  - match: HOST/team/**
    keys: `+uri+`
  - match: HOST/other/**
    keys: `+fingerprint+"\n")
	require.Equal(t, []string{file.fingerprint, fingerprint}, b.Fingerprints())
	require.NoError(t, b.Probe(t.Context()))
	require.NoError(t, b.KeysUsable())
	for _, image := range []string{b.image, strings.Replace(b.image, "/team/", "/other/", 1)} {
		require.Equal(t, []string{fingerprint, fingerprint}, b.keysOn(t, sign.Request{Reference: image}))

		key, err := station.PublicKey(t.Context(), uri, nil)
		require.NoError(t, err)
		inspector, err := sign.NewInspector(sign.InspectorOptions{Registry: b.Registry, Keys: []*sign.PublicKey{key}})
		require.NoError(t, err)
		found, err := inspector.Inspect(t.Context(), sign.Request{Reference: image})
		require.NoError(t, err)
		require.Len(t, found.Digests[0].Signatures, 2)
		for _, signature := range found.Digests[0].Signatures {
			require.True(t, signature.Verified, signature.Problem)
		}
	}

	before := len(vault.Asked(name))
	result, err := b.Sign(t.Context(), sign.Request{Reference: b.image})
	require.NoError(t, err)
	require.True(t, result.Signed[0].Already)
	require.Len(t, vault.Asked(name), before, "what is signed already is no work for the service")
}

func TestRotatedKeyIsTakenByAReload(t *testing.T) {
	t.Parallel()
	name, uri, fingerprint := held(t)
	text := "sigstore-key: " + uri + "\n"
	b := newBench(t, text)
	rotated := fingerprintOf(t, publicPEM(t, vault.NewKey(name)))
	require.Equal(t, []string{fingerprint}, b.keysOn(t, sign.Request{Reference: b.image}))

	vault.Fail(name, kmstest.Answer(http.StatusServiceUnavailable, "Vault is sealed"))
	require.ErrorIs(t, b.reload(t, text), kms.ErrUnreachable)
	vault.Mend(name)
	require.Equal(t, []string{fingerprint}, b.Fingerprints())

	require.NoError(t, b.reload(t, text))
	require.Equal(t, []string{rotated}, b.Fingerprints())
	require.Equal(t, []string{rotated}, b.keysOn(t, sign.Request{Reference: b.image}))
}

// A mistake in the settings is told as one; a service that is away is none.
func TestKeysThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	name, uri, _ := held(t)
	vault.Fail(name, kmstest.Answer(http.StatusForbidden, "permission denied"))
	for key, mistake := range map[string]bool{uri: false, uri + "-absent": false, "k8s://ns/key": true, "absent.key": true} {
		_, err := build(t, "-k", key)
		require.Error(t, err)
		require.NotContains(t, err.Error(), kmstest.Token)
		var usage program.UsageError
		require.Equal(t, mistake, errors.As(station.Mistake(err), &usage), err)

		_, err = station.PublicKey(t.Context(), key, nil)
		require.Error(t, err)
		require.Equal(t, mistake, errors.As(station.Mistake(err), &usage), err)
	}
	require.NoError(t, station.Mistake(nil))
}

func TestKeyThatIsReplaced(t *testing.T) {
	t.Parallel()
	_, uri, fingerprint := held(t)
	file := plain(t)
	_, err := build(t, "-k", file.private, "--replace-key", fingerprint, "--replace-pubkey", uri)
	require.NoError(t, err)
	_, err = build(t, "-k", uri, "-k", uri)
	require.ErrorContains(t, err, "are one and the same key")
}

// outage is a worker of a fleet whose key is in the vault, and a batch.
type outage struct {
	key      string
	registry *registrytest.Registry
	conn     *queue.Conn
	worker   *worker.Worker
	log      *observer.ObservedLogs
	requests []queue.Request
}

const outageJobs = 4

func newOutage(t *testing.T, images int) *outage {
	t.Helper()
	name, uri, _ := held(t)
	o := &outage{key: name, registry: registrytest.New(t), conn: queuetest.Connect(t, queuetest.StartServer(t), queue.Options{AckWait: 30 * time.Second})}
	core, log := observer.New(zapcore.DebugLevel)
	o.log = log
	file := write(t, "sign-worker.yaml", []byte("sigstore-key: "+uri+"\n"))
	settings, source := bench{file: file}.read(t)
	nobody, err := os.Open(os.DevNull)
	require.NoError(t, err)
	t.Cleanup(func() { _ = nobody.Close() })
	st, err := station.New(t.Context(), station.Config{Settings: settings, Source: source, Stdin: nobody, Log: zap.New(core)})
	require.NoError(t, err)
	t.Cleanup(st.Close)
	limits := station.Limits(settings, "w1")
	limits.Jobs, limits.EventJobs = outageJobs, 1
	limits.BackoffMin, limits.BackoffMax = 5*time.Millisecond, 20*time.Millisecond
	limits.ProbeMin, limits.ProbeMax = 5*time.Millisecond, 20*time.Millisecond
	o.worker, err = st.Worker(o.conn, limits, station.Locks(o.conn.Locker("w1").Lock))
	require.NoError(t, err)

	publisher := o.conn.Publisher(0)
	for i := range images {
		tag := fmt.Sprintf("v%d", i)
		o.registry.PushManifest(t, "team/app", tag, "linux/amd64")
		r := queue.Request{
			Batch: "b", Seq: i + 1, Line: queue.Text(tag), Reference: o.registry.Host() + "/team/app:" + tag, SubmittedAt: time.Now().UTC(),
		}.Sealed()
		o.requests = append(o.requests, r)
		require.NoError(t, publisher.Publish(t.Context(), r))
	}
	require.NoError(t, publisher.Flush(t.Context()))
	return o
}

// run runs the worker until the test ends.
func (o *outage) run(t *testing.T) {
	t.Helper()
	ctx, drain := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.worker.Run(ctx) }()
	t.Cleanup(func() {
		drain()
		require.NoError(t, <-ended)
	})
}

// outcomes are those of the batch, once all are there.
func (o *outage) outcomes(t *testing.T) []queue.Outcome {
	t.Helper()
	enough := errors.New("enough")
	var outcomes []queue.Outcome
	err := o.conn.Follow(t.Context(), "b", func() error { return nil }, func(got queue.Outcome) error {
		if outcomes = append(outcomes, got); len(outcomes) == len(o.requests) {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	return outcomes
}

// entries are those of requests in the ledger.
func (o *outage) entries(t *testing.T) (entries []queue.Entry) {
	t.Helper()
	for _, r := range o.requests {
		entry, ok, err := o.conn.Ledger(t.Context(), r)
		require.NoError(t, err)
		if ok {
			entries = append(entries, entry)
		}
	}
	return entries
}

// While the service is away no attempt is burnt and nothing more is taken from
// the queue; when it is back all is signed.
func TestOutageOfTheKeyService(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]http.HandlerFunc{
		"throttled": kmstest.Answer(http.StatusTooManyRequests, "rate limit quota exceeded"),
		"sealed":    kmstest.Answer(http.StatusServiceUnavailable, "Vault is sealed"),
		"denied":    kmstest.Answer(http.StatusForbidden, "permission denied"),
		"cut":       kmstest.Cut,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const images = 40
			o := newOutage(t, images)
			vault.Fail(o.key, fault)
			o.run(t)
			await := func(what string, is func() bool) {
				t.Helper()
				require.Eventually(t, is, 20*time.Second, 2*time.Millisecond, what)
			}
			await("the key is missed", func() bool { return o.worker.KeysUsable() != nil })
			await("what was in work is given back", func() bool {
				entries := o.entries(t)
				given := len(entries) > 0
				for _, e := range entries {
					given = given && !e.InFlight && e.Class == worker.KeyUnavailable
				}
				return given
			})
			tried := len(vault.Asked(o.key))
			await("the key is tried again and again", func() bool { return len(vault.Asked(o.key)) > tried+20 })
			entries := o.entries(t)
			require.LessOrEqual(t, len(entries), 2*outageJobs, "the others were left in the queue")
			for _, e := range entries {
				require.Zero(t, e.Attempts)
				require.Positive(t, e.Waited)
			}
			require.Error(t, o.worker.KeysUsable())

			vault.Mend(o.key)
			for _, outcome := range o.outcomes(t) {
				require.Equal(t, queue.Signed, outcome.Verdict)
				require.Equal(t, 1, outcome.Attempts)
			}
			require.NoError(t, o.worker.KeysUsable())
			require.Equal(t, 1, o.log.FilterMessageSnippet("the keys are away").Len())
			require.Equal(t, 1, o.log.FilterMessageSnippet("the keys are back").Len())
			for _, entry := range o.log.All() {
				require.NotContains(t, fmt.Sprint(entry.Message, entry.ContextMap()), kmstest.Token)
			}
		})
	}
}
