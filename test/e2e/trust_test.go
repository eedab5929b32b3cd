package e2e

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/test/peers"
)

// ruled starts a worker with a configuration file. In its text REGISTRY and NATS
// stand for those of this machine.
func (m *machine) ruled(server *peers.NATS, text string) *program {
	m.t.Helper()
	p := m.start("sign-worker", "--config", m.settings(server, text))
	p.says("serving")
	return p
}

// settings replaces the configuration file, as editors and mounted secrets do.
func (m *machine) settings(server *peers.NATS, text string) string {
	m.t.Helper()
	text = strings.NewReplacer("REGISTRY", m.w.registry.Host(), "NATS", server.URL()).Replace(text)
	file := m.path("sign-worker.yaml")
	require.NoError(m.t, os.Rename(m.write("next.yaml", text), file))
	return file
}

// The worker's own configuration has the last word on what is signed with what,
// whoever asks.
func TestRulesOfAWorker(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	one, two := newKey(t), newKey(t)
	repo := repository(t)
	for _, path := range []string{"/secret/app:v1", "/open/app:v1", "/open/app:dev"} {
		_, err := m.w.pusher.Single(t.Context(), repo+path, "linux/amd64")
		require.NoError(t, err)
	}
	m.ruled(server, `
nats-url: NATS
tls-verify: false
sigstore-key: [`+one.Private+`, `+two.Private+`]
sigstore-passphrase-file: [`+m.write("one", one.Passphrase)+`, `+m.write("two", two.Passphrase)+`]
rules:
  - match: REGISTRY/`+repo+`/secret/**
    deny: true
  - match: REGISTRY/`+repo+`/**:v*
    keys: `+two.Private+`
`)
	host := m.w.registry.Host() + "/" + repo
	r := m.run("sign-submit", "--nats-url", server.URL(), "--failed", m.failed(), "--file",
		m.list(host+"/open/app:v1", host+"/secret/app:v1", host+"/open/app:dev"))
	require.Equal(t, 1, r.code, r)
	require.Equal(t, []string{host + "/secret/app:v1", host + "/open/app:dev"}, m.failedLines())
	for i, reason := range []string{"rule 1 denies it", "none of the rules is for it"} {
		require.Equal(t, "policy-rejected", m.failures()[i].Class)
		require.Contains(t, m.failures()[i].Reason, reason)
	}
	access := m.w.registry.Access()
	requireSigned(t, access, two.Public, host+"/open/app:v1")
	require.Error(t, peers.CosignVerify(t.Context(), access, host+"/open/app:v1", one.Public), "the rule does not give that key")
	require.Error(t, peers.CosignVerify(t.Context(), access, host+"/secret/app:v1", two.Public))

	// A request of somebody else's making that names what the rule does not give.
	for _, asked := range []queue.Request{
		{Keys: []string{fingerprint(t, one)}},
		{Keys: []string{fingerprint(t, two), fingerprint(t, one)}},
		{Identity: "docker.io/library/alpine:3"},
	} {
		asked.Reference = host + "/open/app:v1"
		o := outcomeOf(t, server, asked)
		require.Equal(t, queue.Dead, o.Verdict)
		require.Equal(t, "policy-rejected", o.Class, o.Error)
		require.Equal(t, 1, o.Attempts)
		require.Contains(t, o.Error, "rule 2")
	}
	require.Error(t, peers.CosignVerify(t.Context(), access, host+"/open/app:v1", one.Public))
	require.Equal(t, queue.AlreadySigned, outcomeOf(t, server, queue.Request{Reference: host + "/open/app:v1", Keys: []string{fingerprint(t, two)}}).Verdict)
}

// outcomeOf publishes a request as a client of the queue that is not ours might,
// and waits for its outcome.
func outcomeOf(t *testing.T, server *peers.NATS, r queue.Request) queue.Outcome {
	t.Helper()
	conn, err := queue.Connect(t.Context(), queue.Options{URL: server.URL(), Name: t.Name()})
	require.NoError(t, err)
	defer conn.Close()
	r.Batch, r.SubmittedAt = queue.NewBatchID(time.Now()), time.Now().UTC()
	r = r.Sealed()
	require.NoError(t, conn.PublishEvent(t.Context(), "somebody", r))
	var outcome queue.Outcome
	errSeen := errors.New("seen")
	err = conn.Follow(t.Context(), r.Batch, func() error { return nil }, func(o queue.Outcome) error {
		outcome = o
		return errSeen
	})
	require.ErrorIs(t, err, errSeen)
	return outcome
}

// A key is rotated while the worker runs: by a changed file, and on SIGHUP where
// no file is looked at. What cannot be used changes nothing.
func TestKeysAreRotatedWithoutARestart(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]string{"file": "50ms", "SIGHUP": "0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startNATS(t)
			m := newMachine(t)
			old, next := newKey(t), newKey(t)
			text := func(key peers.KeyPair) string {
				return "nats-url: NATS\ntls-verify: false\nreload-interval: " + interval + "\nlisten: 127.0.0.1:0\nsigstore-key: " + key.Private +
					"\nsigstore-passphrase-file: " + m.write("pass-"+fingerprint(t, key)[7:], key.Passphrase) + "\n"
			}
			worker := m.ruled(server, text(old))
			reload := func(text, says string) {
				t.Helper()
				m.settings(server, text)
				if interval == "0" {
					worker.signal(syscall.SIGHUP)
				}
				worker.says(says)
			}
			sign := func(key peers.KeyPair) {
				t.Helper()
				image, err := m.w.pusher.Single(t.Context(), repository(t)+"/"+fingerprint(t, key)[7:17]+":v1", "linux/amd64")
				require.NoError(t, err)
				r := m.run("sign-submit", "--nats-url", server.URL(), "--failed", m.failed(), "--file", m.list(image.Reference))
				require.Zero(t, r.code, r)
				requireSigned(t, m.w.registry.Access(), key.Public, image.Reference)
			}
			sign(old)
			reload(text(next), "settings read anew")
			sign(next)
			require.NotContains(t, worker.stderr.String(), `"level":"debug"`)
			reload(text(next)+"log-level: debug\n", `"changed":["log-level"]`)
			reload("sigstore-kye: "+old.Private+"\n", "did you mean sigstore-key?")
			reload(strings.Replace(text(old), "pass-", "no-pass-", 1), "no-pass-")
			sign(next)
			address := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(worker.stderr.String())[1]
			_, metrics := ask(t, address, "/metrics")
			require.Regexp(t, `(?m)^signfleet_reloads_total\{result="success"\} 2$`, metrics)
			require.Regexp(t, `(?m)^signfleet_reloads_total\{result="failure"\} [2-9]`, metrics)

			worker.signal(syscall.SIGTERM)
			ended := worker.wait()
			require.Zero(t, ended.code, ended)
			require.NotContains(t, ended.String(), next.Passphrase)
		})
	}
}

// A policy that was found where policies are does not go because its file is away.
func TestPolicyThatVanishesIsKept(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	policy := m.write(".config/containers/policy.json", `{"default":[{"type":"reject"}]}`)
	key := newKey(t)
	worker := m.ruled(server, "nats-url: NATS\ntls-verify: false\nlisten: ''\nreload-interval: 50ms\nsigstore-key: "+key.Private+
		"\nsigstore-passphrase-file: "+m.write("pass", key.Passphrase)+"\n")
	image, err := m.w.pusher.Single(t.Context(), repository(t)+":v1", "linux/amd64")
	require.NoError(t, err)
	require.NoError(t, os.Rename(policy, policy+".away"))
	worker.says("policy " + policy + " is gone")
	r := m.run("sign-submit", "--nats-url", server.URL(), "--failed", m.failed(), "--file", m.list(image.Reference))
	require.Equal(t, 1, r.code, r)
	require.Equal(t, "policy-rejected", m.failures()[0].Class)
}
