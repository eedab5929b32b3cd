// Package kmstest is a key management service for tests: the Transit engine of
// a HashiCorp Vault as far as signing needs it, with real keys, and with faults.
package kmstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
)

// Token is what the service wants to see at first.
const Token = "hvs.kmstest-token-that-nobody-may-read"

// Vault is the service.
type Vault struct {
	server *httptest.Server
	closed chan struct{}

	mu    sync.Mutex
	token string
	keys  map[string]*key
}

type key struct {
	versions []crypto.Signer // the first is version 1
	oldest   int             // that still signs
	fault    func(w http.ResponseWriter, r *http.Request)
	asked    []string // as "GET keys", "PUT sign"
}

// StartVault starts a service without keys. It has to be closed.
func StartVault() *Vault {
	v := &Vault{token: Token, keys: make(map[string]*key), closed: make(chan struct{})}
	v.server = httptest.NewServer(http.HandlerFunc(v.serve))
	return v
}

// Close ends the service, and every call to it.
func (v *Vault) Close() {
	close(v.closed)
	v.server.CloseClientConnections()
	v.server.Close()
}

// URL is where the service is.
func (v *Vault) URL() string { return v.server.URL }

// AddKey adds a key, or a version to the one of that name: it is rotated then.
func (v *Vault) AddKey(name string, private crypto.Signer) {
	v.with(name, func(k *key) { k.versions = append(k.versions, private) })
}

// NewKey adds an ECDSA P-256 key.
func (v *Vault) NewKey(name string) crypto.PublicKey {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // the system has no randomness
	}
	v.AddKey(name, private)
	return private.Public()
}

// Retire lets only versions from oldest on sign with a key.
func (v *Vault) Retire(name string, oldest int) {
	v.with(name, func(k *key) { k.oldest = oldest })
}

// SetToken has another token be the right one.
func (v *Vault) SetToken(token string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.token = token
}

// Fail has calls about a key be answered by a fault until Mend.
func (v *Vault) Fail(name string, fault http.HandlerFunc) {
	v.with(name, func(k *key) { k.fault = fault })
}

// Mend ends the faults of a key.
func (v *Vault) Mend(name string) { v.Fail(name, nil) }

// Asked are the calls about a key so far: "GET keys" and "PUT sign".
func (v *Vault) Asked(name string) (asked []string) {
	v.with(name, func(k *key) { asked = append(asked, k.asked...) })
	return asked
}

// Answer is a fault: an error as the service tells it.
func Answer(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fail(w, status, text) }
}

// Hang is a fault: there is no answer.
func (v *Vault) Hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // only then is it noticed that the client goes
	select {
	case <-r.Context().Done():
	case <-v.closed:
	}
}

// Cut is a fault: the connection ends without an answer.
func Cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Echo is a fault of something in front of the service that tells what it was sent.
func Echo(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusBadGateway)
	_ = r.Write(w) // the client may have gone
}

func (v *Vault) with(name string, do func(*key)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys[name] == nil {
		v.keys[name] = &key{}
	}
	do(v.keys[name])
}

func (v *Vault) serve(w http.ResponseWriter, r *http.Request) {
	op, name, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	name, hash, _ := strings.Cut(name, "/")
	if !ok || name == "" {
		fail(w, http.StatusNotFound, "no handler for route")
		return
	}
	var k key
	v.with(name, func(known *key) {
		known.asked = append(known.asked, r.Method+" "+op)
		k = *known
	})
	v.mu.Lock()
	token := v.token
	v.mu.Unlock()
	switch {
	case k.fault != nil:
		k.fault(w, r)
	case r.Header.Get("X-Vault-Token") != token:
		fail(w, http.StatusForbidden, "permission denied")
	case len(k.versions) == 0 && r.Method == http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[]}`)
	case len(k.versions) == 0:
		fail(w, http.StatusBadRequest, "signing key not found")
	case op == "keys" && r.Method == http.MethodGet:
		tell(w, k.describe())
	case op == "sign" && r.Method == http.MethodPut:
		k.sign(w, r, hash)
	default:
		fail(w, http.StatusMethodNotAllowed, "unsupported operation")
	}
}

// describe is what is told of a key.
func (k key) describe() any {
	versions := make(map[string]any)
	for i, private := range k.versions {
		versions[strconv.Itoa(i+1)] = describeVersion(private.Public())
	}
	return map[string]any{"keys": versions, "latest_version": len(k.versions)}
}

func describeVersion(public crypto.PublicKey) any {
	if ed, ok := public.(ed25519.PublicKey); ok {
		return map[string]any{"name": "ed25519", "public_key": base64.StdEncoding.EncodeToString(ed)}
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err) // it is a key of a test
	}
	return map[string]any{"public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

// sign signs as Vault does: RSA with PKCS#1 v1.5 where that is asked for, Ed25519
// over the input itself.
func (k key) sign(w http.ResponseWriter, r *http.Request, hash string) {
	var asked struct {
		Input     []byte `json:"input"`
		Prehashed bool   `json:"prehashed"`
		Version   string `json:"key_version"`
		Algorithm string `json:"signature_algorithm"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	version, err := strconv.Atoi(asked.Version)
	if version == 0 {
		version = len(k.versions)
	}
	switch {
	case err != nil || version > len(k.versions):
		fail(w, http.StatusBadRequest, "cannot sign: no such version")
		return
	case version < k.oldest:
		fail(w, http.StatusBadRequest, "cannot sign: requested version for signing is less than the minimum encryption key version")
		return
	}
	private := k.versions[version-1]
	var made []byte
	if ed, ok := private.(ed25519.PrivateKey); ok {
		made = ed25519.Sign(ed, asked.Input)
	} else {
		if hash != "sha2-256" || asked.Algorithm != "pkcs1v15" {
			fail(w, http.StatusBadRequest, "the test service signs over SHA-256, and PKCS#1 v1.5 only")
			return
		}
		sum := asked.Input
		if !asked.Prehashed {
			whole := sha256.Sum256(sum)
			sum = whole[:]
		}
		made, err = private.Sign(rand.Reader, sum, crypto.SHA256)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	tell(w, map[string]any{"signature": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(made)), "key_version": version})
}

func tell(w http.ResponseWriter, data any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data}) // the client may have gone
}

func fail(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{text}}) // the client may have gone
}
