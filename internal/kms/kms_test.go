package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	sigkms "github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/kms/fake"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/signfleet/signfleet/internal/kms"
	"github.com/signfleet/signfleet/internal/kms/kmstest"
)

// provided are services that tests provide, by the URI of their key.
var provided sync.Map

func TestMain(m *testing.M) {
	sigkms.AddProvider("testkms://", func(_ context.Context, uri string, _ crypto.Hash, _ ...signature.RPCOption) (sigkms.SignerVerifier, error) {
		s, _ := provided.Load(uri)
		return s.(*stubborn), nil
	})
	goleak.VerifyTestMain(m)
}

// vault is a service with a key "release".
func vault(t *testing.T) (*kmstest.Vault, kms.Options) {
	t.Helper()
	v := kmstest.StartVault()
	t.Cleanup(v.Close)
	v.NewKey("release")
	return v, kms.Options{Vault: kms.Vault{Address: v.URL(), Token: kmstest.Token, Mount: "transit"}}
}

func openRelease(t *testing.T, o kms.Options) *kms.Holder {
	t.Helper()
	key, err := kms.Open(t.Context(), "hashivault://release", o)
	require.NoError(t, err)
	return key
}

// requireVerifies holds a signature to what verifiers of images expect.
func requireVerifies(t *testing.T, public crypto.PublicKey, made []byte, message string) {
	t.Helper()
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	require.NoError(t, err)
	require.NoError(t, verifier.VerifySignature(bytes.NewReader(made), strings.NewReader(message)))
}

func TestEveryKindOfKeyInVault(t *testing.T) {
	t.Parallel()
	v, o := vault(t)
	for name, make := range map[string]func() (crypto.Signer, error){
		"p256":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		"p384":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
		"p521":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P521(), rand.Reader) },
		"rsa":     func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		"ed25519": func() (crypto.Signer, error) { _, key, err := ed25519.GenerateKey(rand.Reader); return key, err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			private, err := make()
			require.NoError(t, err)
			v.AddKey(name, private)
			for _, scheme := range []string{"hashivault://", "openbao://"} {
				key, err := kms.Open(t.Context(), scheme+name, o)
				require.NoError(t, err)
				require.Equal(t, private.Public(), key.Public())
				require.Equal(t, scheme+name, key.URI())
				made, err := key.Sign(t.Context(), []byte("the payload"))
				require.NoError(t, err)
				requireVerifies(t, private.Public(), made, "the payload")
				require.NoError(t, key.Probe(t.Context()))

				public, err := kms.PublicKey(t.Context(), scheme+name, o)
				require.NoError(t, err)
				require.Equal(t, private.Public(), public)
			}
		})
	}
}

func TestPublicKeySignsNothing(t *testing.T) {
	t.Parallel()
	v, o := vault(t)
	_, err := kms.PublicKey(t.Context(), "hashivault://release", o)
	require.NoError(t, err)
	require.Equal(t, []string{"GET keys"}, v.Asked("release"))
}

func TestSigstoresOwnFake(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key, err := kms.Open(context.WithValue(t.Context(), fake.KmsCtxKey{}, private), "fakekms://any", kms.Options{})
	require.NoError(t, err)
	require.Equal(t, private.Public(), key.Public())
	made, err := key.Sign(t.Context(), []byte("the payload"))
	require.NoError(t, err)
	requireVerifies(t, private.Public(), made, "the payload")
}

func TestURIs(t *testing.T) {
	t.Parallel()
	for name, is := range map[string]bool{
		"hashivault://release": true, "awskms:///alias/release": true, "k8s://ns/name": true, "my+kms.v2://x": true,
		"cosign.key": false, "/etc/keys/a.key": false, "keys://a"[4:]: false, `C:\keys\a.key`: false, "": false,
	} {
		require.Equal(t, is, kms.IsURI(name), name)
	}
}

func TestURIsThatNameNoService(t *testing.T) {
	t.Parallel()
	for uri, says := range map[string]string{
		"k8s://signing/key": "no key management service is known by that name; those that are: ",
		"vault://release":   "hashivault://",
		"release":           "no key management service",
	} {
		for _, open := range []func() error{
			func() error { _, err := kms.Open(t.Context(), uri, kms.Options{}); return err },
			func() error { _, err := kms.PublicKey(t.Context(), uri, kms.Options{}); return err },
		} {
			err := open()
			var wrong *kms.SettingError
			require.ErrorAs(t, err, &wrong)
			require.Equal(t, uri, wrong.URI)
			require.ErrorContains(t, err, says)
			require.ErrorContains(t, err, "awskms://")
		}
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault http.HandlerFunc // nil: no answer
		is    error
		says  string
	}{
		"throttled":   {kmstest.Answer(429, "request path \"transit/sign/release\": rate limit quota exceeded"), kms.ErrThrottled, "429 Too Many Requests: request path"},
		"sealed":      {kmstest.Answer(503, "Vault is sealed"), kms.ErrUnreachable, "503 Service Unavailable: Vault is sealed"},
		"denied":      {kmstest.Answer(403, "permission denied"), kms.ErrDenied, "403 Forbidden: permission denied"},
		"broken":      {kmstest.Answer(500, "internal error"), kms.ErrUnreachable, "500"},
		"refused":     {kmstest.Answer(400, "invalid key"), kms.ErrRefused, "400 Bad Request: invalid key"},
		"no key":      {kmstest.Answer(404, "no handler for route"), kms.ErrNoKey, ""},
		"cut":         {kmstest.Cut, kms.ErrUnreachable, "EOF"},
		"echo":        {kmstest.Echo, kms.ErrUnreachable, "502 Bad Gateway"},
		"no JSON":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, kms.ErrRefused, "invalid character"},
		"nothing":     {func(http.ResponseWriter, *http.Request) {}, nil, ""},
		"empty 404":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, nil, ""},
		"no sense":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"data":{"signature":7}}`) }, kms.ErrRefused, ""},
		"a long text": {kmstest.Answer(400, strings.Repeat("a lot of text\n", 10_000)), kms.ErrRefused, "a lot of text a lot of text"},
		"no answer":   {nil, kms.ErrUnreachable, "no answer within 20ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, o := vault(t)
			fault := c.fault
			if fault == nil {
				o.Timeout, fault = 20*time.Millisecond, v.Hang
			}
			requireFault := func(err error, op string) {
				t.Helper()
				var failed *kms.Error
				require.ErrorAs(t, err, &failed)
				require.Equal(t, "hashivault://release", failed.URI)
				if op != "" {
					require.Equal(t, op, failed.Op)
				}
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
				require.ErrorContains(t, err, c.says)
				requireNoSecret(t, err)
				require.Less(t, len(err.Error()), 2000)
				require.NotContains(t, err.Error(), "\n")
			}
			key := (*kms.Holder)(nil)
			if c.fault != nil {
				key = openRelease(t, o)
			} else {
				patient := o
				patient.Timeout = 0
				key = openRelease(t, patient)
			}
			v.Fail("release", fault)
			_, err := kms.Open(t.Context(), "hashivault://release", o)
			requireFault(err, "read the public key")
			if c.fault == nil {
				return // the key would wait for half a minute
			}
			_, err = key.Sign(t.Context(), []byte("the payload"))
			requireFault(err, "sign")
			requireFault(key.Probe(t.Context()), "")
			v.Mend("release")
			require.NoError(t, key.Probe(t.Context()))
			_, err = key.Sign(t.Context(), []byte("the payload"))
			require.NoError(t, err)
		})
	}
}

// requireNoSecret looks into an error and all that it wraps.
func requireNoSecret(t *testing.T, err error) {
	t.Helper()
	for ; err != nil; err = errors.Unwrap(err) {
		require.NotContains(t, err.Error(), kmstest.Token)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	address := strings.Replace(server.URL, "://", "://user:s3cret@", 1)
	_, err := kms.Open(t.Context(), "hashivault://release", kms.Options{Vault: kms.Vault{Address: address, Token: kmstest.Token}})
	require.ErrorIs(t, err, kms.ErrUnreachable)
	require.ErrorContains(t, err, "connection refused")
	requireNoSecret(t, err)
}

func TestPasswordInTheAddress(t *testing.T) {
	t.Parallel()
	v, o := vault(t)
	o.Vault.Address = strings.Replace(v.URL(), "://", "://user:s3cret@", 1)
	v.Fail("release", kmstest.Answer(403, "permission denied"))
	_, err := kms.Open(t.Context(), "hashivault://release", o)
	require.ErrorIs(t, err, kms.ErrDenied)
	requireNoSecret(t, err)
}

func TestNoSuchKey(t *testing.T) {
	t.Parallel()
	_, o := vault(t)
	_, err := kms.Open(t.Context(), "hashivault://absent", o)
	require.ErrorIs(t, err, kms.ErrNoKey)
	_, err = kms.Open(t.Context(), "hashivault://not/a/key", o)
	require.ErrorContains(t, err, "write hashivault://KEY")
}

func TestEndOfTheContextIsToldAsItself(t *testing.T) {
	t.Parallel()
	v, o := vault(t)
	key := openRelease(t, o)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the image has no time left")
	v.Fail("release", func(w http.ResponseWriter, r *http.Request) {
		cancel(why)
		v.Hang(w, r)
	})
	_, err := key.Sign(ctx, []byte("the payload"))
	require.ErrorIs(t, err, why)
	require.NotErrorIs(t, err, kms.ErrUnreachable)
}

// What is rotated while it is open goes on signing with its version, until that
// can no longer be used.
func TestRotation(t *testing.T) {
	t.Parallel()
	v, o := vault(t)
	key := openRelease(t, o)
	second := v.NewKey("release")
	for range 2 {
		made, err := key.Sign(t.Context(), []byte("the payload"))
		require.NoError(t, err)
		requireVerifies(t, key.Public(), made, "the payload")
		require.NoError(t, key.Probe(t.Context()))
	}
	v.Retire("release", 2)
	_, err := key.Sign(t.Context(), []byte("the payload"))
	require.ErrorIs(t, err, kms.ErrRotated)
	require.ErrorContains(t, err, "reload the worker")
	require.ErrorIs(t, key.Probe(t.Context()), kms.ErrRotated)

	renewed := openRelease(t, o)
	require.Equal(t, second, renewed.Public())
	made, err := renewed.Sign(t.Context(), []byte("the payload"))
	require.NoError(t, err)
	requireVerifies(t, second, made, "the payload")
}

// A token that has expired is read again by the next probe.
func TestTokenIsReadAgain(t *testing.T) {
	v, _ := vault(t)
	t.Setenv("VAULT_ADDR", v.URL())
	t.Setenv("VAULT_TOKEN", kmstest.Token)
	key := openRelease(t, kms.Options{})
	v.SetToken("hvs.another")
	_, err := key.Sign(t.Context(), []byte("the payload"))
	require.ErrorIs(t, err, kms.ErrDenied)
	require.ErrorIs(t, key.Probe(t.Context()), kms.ErrDenied)
	t.Setenv("VAULT_TOKEN", "hvs.another")
	require.NoError(t, key.Probe(t.Context()))
	_, err = key.Sign(t.Context(), []byte("the payload"))
	require.NoError(t, err)
}

func TestNothingSaysWhereVaultIs(t *testing.T) {
	for _, name := range []string{"VAULT_ADDR", "BAO_ADDR", "VAULT_TOKEN", "BAO_TOKEN"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	var wrong *kms.SettingError
	_, err := kms.Open(t.Context(), "hashivault://release", kms.Options{})
	require.ErrorAs(t, err, &wrong)
	require.ErrorContains(t, err, "VAULT_ADDR is not set")
	_, err = kms.Open(t.Context(), "hashivault://release", kms.Options{Vault: kms.Vault{Address: "http://127.0.0.1:1"}})
	require.ErrorAs(t, err, &wrong)
	require.ErrorContains(t, err, "no token")
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	_, o := vault(t)
	key := openRelease(t, o)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 5 {
				if _, err := key.Sign(t.Context(), []byte("the payload")); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() { _ = key.Public() })
	}
	for range 5 {
		require.NoError(t, key.Probe(t.Context()))
	}
	all.Wait()
}

// stubborn is a service of which calls can be held up. It tells no versions apart.
type stubborn struct {
	sigkms.SignerVerifier
	sign func(message io.Reader) ([]byte, error)
}

func (s *stubborn) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	return s.sign(message)
}

// provide has a stubborn service be found at a URI.
func provide(t *testing.T, uri string) *stubborn {
	t.Helper()
	inner, err := fake.LoadSignerVerifier(t.Context(), crypto.SHA256)
	require.NoError(t, err)
	s := &stubborn{SignerVerifier: inner, sign: func(m io.Reader) ([]byte, error) { return inner.SignMessage(m) }}
	provided.Store(uri, s)
	return s
}

func TestSignatureOfAnotherKey(t *testing.T) {
	t.Parallel()
	s, other := provide(t, "testkms://misfit"), provide(t, "testkms://other")
	key, err := kms.Open(t.Context(), "testkms://misfit", kms.Options{})
	require.NoError(t, err)
	sign := s.sign
	s.sign = other.sign
	_, err = key.Sign(t.Context(), []byte("the payload"))
	require.ErrorIs(t, err, kms.ErrMisfit)
	require.ErrorIs(t, key.Probe(t.Context()), kms.ErrMisfit)
	_, err = kms.Open(t.Context(), "testkms://misfit", kms.Options{})
	require.ErrorIs(t, err, kms.ErrMisfit)

	s.SignerVerifier = other.SignerVerifier // what it gives as the public key has changed too
	_, err = key.Sign(t.Context(), []byte("the payload"))
	require.ErrorIs(t, err, kms.ErrRotated)
	s.sign = sign
}

func TestPanicOfAClient(t *testing.T) {
	t.Parallel()
	s := provide(t, "testkms://panic")
	key, err := kms.Open(t.Context(), "testkms://panic", kms.Options{})
	require.NoError(t, err)
	s.sign = func(io.Reader) ([]byte, error) { panic("boom") }
	_, err = key.Sign(t.Context(), []byte("the payload"))
	require.ErrorIs(t, err, kms.ErrRefused)
	require.ErrorContains(t, err, "boom")
}

// Calls that never end are not made without end.
func TestCallsThatNeverEnd(t *testing.T) {
	t.Parallel()
	s := provide(t, "testkms://hanging")
	synctest.Test(t, func(t *testing.T) {
		key, err := kms.Open(t.Context(), "testkms://hanging", kms.Options{})
		require.NoError(t, err)
		release := make(chan struct{})
		var held atomic.Int64
		sign := s.sign
		s.sign = func(m io.Reader) ([]byte, error) {
			held.Add(1)
			<-release
			return sign(m)
		}
		began := time.Now()
		for range 100 {
			require.ErrorIs(t, key.Probe(t.Context()), kms.ErrUnreachable)
		}
		require.EqualValues(t, 32, held.Load())
		require.Equal(t, 32*30*time.Second, time.Since(began), "each has half a minute")
		close(release)
		synctest.Wait()
		require.NoError(t, key.Probe(t.Context()))
	})
}
