package e2e

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/kms/kmstest"
	"github.com/signfleet/signfleet/test/peers/build"
)

// vault starts a service that holds keys, which the machine knows of.
func (m *machine) vault() *kmstest.Vault {
	m.t.Helper()
	v := kmstest.StartVault()
	m.t.Cleanup(v.Close)
	m.variables = append(m.variables, "VAULT_ADDR="+v.URL(), "VAULT_TOKEN="+kmstest.Token)
	return v
}

// public writes a public key and returns its path.
func (m *machine) public(key crypto.PublicKey) string {
	m.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	require.NoError(m.t, err)
	return m.write("vault.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

// What keys in a Vault sign is accepted by both verifiers, and by validate.
func TestKeysInVault(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for name, private := range map[string]crypto.Signer{
		"p256": ec(t, elliptic.P256()), "p384": ec(t, elliptic.P384()), "rsa2048": rsaKey(t, 2048), "ed25519": ed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.vault().AddKey(name, private)
			image, err := m.w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
			require.NoError(t, err)
			list := m.list(image.Reference)
			r := m.run("sign-submit", "--sigstore-key", "hashivault://"+name, "--file", list, "--failed", m.failed(), "--tls-verify=false")
			require.Zero(t, r.code, r)
			require.NotContains(t, r.String(), kmstest.Token)
			requireSigned(t, m.w.registry.Access(), m.public(private.Public()), image.Reference, image.ByDigest())
			r = m.run("sign-submit", "validate", "--sigstore-pubkey", "hashivault://"+name, "--file", list, "--failed", m.failed(), "--tls-verify=false")
			require.Zero(t, r.code, r)
		})
	}
}

func TestKeysInServicesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := m.vault()
	v.NewKey("denied")
	v.Fail("denied", kmstest.Answer(http.StatusForbidden, "permission denied"))
	v.NewKey("sealed")
	v.Fail("sealed", kmstest.Answer(http.StatusServiceUnavailable, "Vault is sealed"))
	for key, c := range map[string]struct {
		code int
		says string
	}{
		"hashivault://denied":                  {1, "permission denied"},
		"hashivault://sealed":                  {1, "Vault is sealed"},
		"hashivault://absent":                  {1, "no such key"},
		"k8s://ns/key":                         {2, "hashivault://"},
		"gcpkms://projects/p/locations/l":      {2, "kms_cloud"},
		"awskms:///alias/release":              {2, "kms_cloud"},
		"azurekms://release.vault.azure.net/k": {2, "kms_cloud"},
	} {
		for _, program := range [][]string{
			{"sign-worker", "--nats-url", "nats://127.0.0.1:1"},
			{"sign-submit", "--file", m.list("registry.example.org/app:1"), "--failed", m.failed()},
		} {
			r := m.run(program[0], append(program[1:], "--sigstore-key", key)...)
			require.Equal(t, c.code, r.code, r)
			require.Contains(t, r.stderr, key)
			require.Contains(t, r.stderr, c.says)
			require.NotContains(t, r.String(), kmstest.Token)
		}
	}
}

// A worker whose Vault is sealed is not ready and takes nothing; when it is
// unsealed all is signed at the first attempt.
func TestWorkerWhoseVaultIsSealed(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	m := newMachine(t)
	v := m.vault()
	public := m.public(v.NewKey("release"))
	images, lines := pushMany(t, m.w.pusher, 10)
	worker := m.start("sign-worker", "--sigstore-key", "hashivault://release", "--nats-url", server.URL(), "--tls-verify=false",
		"--jobs", "2", "--listen", "127.0.0.1:0")
	worker.says("serving")
	address := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(worker.stderr.String())[1]
	v.Fail("release", kmstest.Answer(http.StatusServiceUnavailable, "Vault is sealed"))
	submission := m.start("sign-submit", "--file", m.list(lines...), "--nats-url", server.URL(), "--failed", m.failed())
	worker.says("the keys are away")
	status, text := ask(t, address, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, "Vault is sealed")
	_, text = ask(t, address, "/metrics")
	require.Regexp(t, `(?m)^signfleet_keys_usable(\{.*\})? 0$`, text)
	require.Regexp(t, `(?m)^signfleet_keys_configured(\{.*\})? 1$`, text)

	v.Mend("release")
	worker.says("the keys are back")
	r := submission.wait()
	require.Zero(t, r.code, r)
	for _, image := range images {
		requireSigned(t, m.w.registry.Access(), public, image.Reference)
	}
	require.NotContains(t, worker.result().String(), kmstest.Token)
	_, text = ask(t, address, "/metrics")
	require.NotRegexp(t, `signfleet_attempts_total\{.*result="failure".*\} [1-9]`, text)
}

// Somebody who waits for a submission is not left waiting for keys for ever.
func TestSubmissionWhoseVaultStaysSealed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := m.vault()
	v.NewKey("release")
	proxy, pusher := viaProxy(t)
	_, lines := pushMany(t, pusher, 3)
	fault, open := gate(0)
	proxy.SetFault(fault)
	arrived := proxy.Arrived()
	flags := []string{"--sigstore-key", "hashivault://release", "--file", m.list(lines...), "--failed", m.failed(), "--tls-verify=false", "--skip-login"}
	submission := m.start("sign-submit", append(flags, "--max-wait", "2s")...)
	submission.within(arrived, "the first request")
	v.Fail("release", kmstest.Answer(http.StatusServiceUnavailable, "Vault is sealed"))
	proxy.SetFault(nil)
	open()

	r := submission.wait()

	require.Equal(t, 1, r.code, r)
	require.Contains(t, r.stderr, "Vault is sealed")
	require.Equal(t, lines, m.failedLines())
	v.Mend("release")
	r = m.run("sign-submit", flags...)
	require.Zero(t, r.code, r)
}

// The programs without the clients of the clouds stay small.
func TestProgramsAreSmall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, build.Own(t.Context(), dir, "-ldflags=-s -w", "./cmd/..."))
	for _, name := range []string{"sign-submit", "sign-worker"} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(45e6), name)
		list, err := exec.CommandContext(t.Context(), "go", "version", "-m", filepath.Join(dir, name)).Output()
		require.NoError(t, err)
		for _, cloud := range []string{"aws-sdk-go", "azure-sdk-for-go", "cloud.google.com"} {
			require.NotContains(t, strings.ToLower(string(list)), cloud, "that is for builds with the tag kms_cloud")
		}
	}
}
