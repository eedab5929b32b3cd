package registry_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/registry/registrytest"
)

func TestTLSWithAnOwnCA(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTLS())
	r.PushManifest(t, "team/app", "v1", "linux/amd64")
	o := machine(t)
	o.TLSVerify, o.CertsDir = nil, r.CertsDir(t)
	_, err := repositoryOf(t, newClient(t, o), r, "team/app").Manifest(t.Context(), "v1")
	require.NoError(t, err)

	o.CertsDir = filepath.Join(o.CertsDir, r.Host()) // as podman and skopeo take it
	_, err = repositoryOf(t, newClient(t, o), r, "team/app").Manifest(t.Context(), "v1")
	require.NoError(t, err)

	r.Reset()
	o.CertsDir = t.TempDir()
	_, err = repositoryOf(t, newClient(t, o), r, "team/app").Manifest(t.Context(), "v1")
	require.ErrorContains(t, err, "certificate")
	require.ErrorContains(t, err, "cert-dir")
	require.Empty(t, r.Requests())
}

func TestClientCertificatesStayWithTheRegistry(t *testing.T) {
	t.Parallel()
	var shown [2]atomic.Int64
	serve := func(i int, answer http.HandlerFunc) *httptest.Server {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			shown[i].Store(int64(len(req.TLS.PeerCertificates)))
			answer(w, req)
		}))
		server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	cdn := serve(1, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("payload")) })
	own := serve(0, func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, cdn.URL+"/b", http.StatusTemporaryRedirect)
	})

	o := machine(t)
	o.TLSVerify = nil
	dir := filepath.Join(o.CertsDir, own.Listener.Addr().String())
	require.NoError(t, os.Mkdir(dir, 0o700))
	key, err := x509.MarshalPKCS8PrivateKey(own.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate().Raw})
	for name, content := range map[string][]byte{
		"ca.crt":      certificate,
		"client.cert": certificate,
		"client.key":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	_, err = repositoryAt(t, own, o).Blob(t.Context(), digest.FromString("payload"), 10)
	require.NoError(t, err)
	require.Equal(t, int64(1), shown[0].Load())
	require.Equal(t, int64(0), shown[1].Load())

	require.NoError(t, os.Remove(filepath.Join(dir, "client.key")))
	_, err = newClient(t, o).Repository(own.Listener.Addr().String() + "/team/app")
	require.ErrorContains(t, err, "missing key")
}

func TestPlacesOfTheUser(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config")) // HOME is looked at once a process
	r := registrytest.New(t, registrytest.WithTLS(), registrytest.WithBasicAuth("ann", "secret"))
	config := filepath.Join(home, ".config/containers")
	require.NoError(t, os.MkdirAll(filepath.Join(config, "registries.d"), 0o700))
	require.NoError(t, os.Rename(r.CertsDir(t), filepath.Join(config, "certs.d")))
	require.NoError(t, os.Rename(registrytest.AuthFile(t, r.Host(), "ann", "secret"), filepath.Join(config, "auth.json")))
	require.NoError(t, os.WriteFile(filepath.Join(config, "registries.d/all.yaml"),
		[]byte("default-docker:\n  use-sigstore-attachments: false\n"), 0o600))

	client := newClient(t, registry.Options{})
	require.NoError(t, client.Login(t.Context(), r.Host()))
	require.ErrorContains(t, client.AttachmentsAllowed(r.Host()+"/team/app"), "all.yaml")
}

func TestInsecureRegistries(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	tests := map[string]struct {
		verify *bool
		conf   string
		http   bool // reaches a registry that speaks http
		tls    bool // reaches one whose CA is not known
	}{
		"by default":                 {nil, "", false, false},
		"by option":                  {&no, "", true, true},
		"by registries.conf":         {nil, "[[registry]]\nlocation = '%s'\ninsecure = true", true, true},
		"for another repository":     {nil, "[[registry]]\nlocation = '%s/other'\ninsecure = true", false, false},
		"registries.conf overridden": {&yes, "[[registry]]\nlocation = '%s'\ninsecure = true", false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []*registrytest.Registry{registrytest.New(t), registrytest.New(t, registrytest.WithTLS())} {
				o := machine(t)
				o.TLSVerify = test.verify
				if test.conf != "" {
					o.RegistriesConf = writeFile(t, "registries.conf", fmt.Sprintf(test.conf, r.Host()))
				}
				_, err := repositoryOf(t, newClient(t, o), r, "team/app").Manifest(t.Context(), "v1")
				if want := strings.HasPrefix(r.URL(), "http:") && test.http || strings.HasPrefix(r.URL(), "https:") && test.tls; want {
					require.ErrorIs(t, err, registry.ErrNotFound)
				} else {
					require.True(t, factsOf(t, err).Network())
				}
			}
		})
	}
}

// connections counts the connections that a server accepts.
func connections(server *httptest.Server) *atomic.Int64 {
	var accepted atomic.Int64
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			accepted.Add(1)
		}
	}
	return &accepted
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(strings.Repeat("x", 10_000)))
	}))
	accepted := connections(server)
	server.Start()
	t.Cleanup(server.Close)
	repository := repositoryAt(t, server, machine(t))
	for range 20 {
		_, err := repository.Manifest(t.Context(), "v1")
		require.ErrorIs(t, err, registry.ErrNotFound)
	}
	require.Equal(t, int64(2), accepted.Load(), "one to learn that it is not https, one for all that follow")
}

func TestRequestsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int64
	three := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		if n == 3 {
			close(three)
		}
		<-three
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	o := machine(t)
	o.HostConcurrency = 3
	repository := repositoryAt(t, server, o)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range 5 {
				_, _ = repository.Blob(t.Context(), digest.FromString("x"), 10)
			}
		})
	}
	for range 9 {
		all.Go(func() { _, _ = repository.Manifest(t.Context(), "v1") })
	}
	all.Wait()
	require.Equal(t, int64(3), most.Load())
}

func TestBlockedRegistries(t *testing.T) {
	t.Parallel()
	o := machine(t)
	o.RegistriesConf = writeFile(t, "registries.conf", `
[[registry]]
location = "registry.example.com/secret"
blocked = true
[[registry]]
prefix = "old.example.com"
location = "registry.example.com/secret/old"
`)
	client := newClient(t, o)
	for _, name := range []string{"registry.example.com/secret/app", "old.example.com/app"} {
		_, err := client.Repository(name)
		var blocked *registry.BlockedError
		require.ErrorAs(t, err, &blocked)
		require.Equal(t, "registry.example.com/secret", blocked.Prefix)
		require.Contains(t, blocked.Source, o.RegistriesConf)
	}
	_, err := client.Repository("registry.example.com/open/app")
	require.NoError(t, err)
}

func TestRegistriesConfLeadsElsewhereButNotToMirrors(t *testing.T) {
	t.Parallel()
	r, mirror := registrytest.New(t), registrytest.New(t)
	r.PushManifest(t, "moved/app", "v1", "linux/amd64")
	o := machine(t)
	o.TLSVerify = nil
	o.RegistriesConf = writeFile(t, "registries.conf", fmt.Sprintf(`
[[registry]]
prefix = "old.example.com/team"
location = "%s/moved"
insecure = true
[[registry.mirror]]
location = "%s/copy"
insecure = true
`, r.Host(), mirror.Host()))
	client := newClient(t, o)
	repository, err := client.Repository("old.example.com/team/app")
	require.NoError(t, err)
	require.Equal(t, "old.example.com/team/app", repository.Name())
	require.Equal(t, r.Host()+"/moved/app", repository.Location())
	_, err = repository.Manifest(t.Context(), "v1")
	require.NoError(t, err)
	require.Empty(t, mirror.Requests())

	require.ErrorContains(t, client.Login(t.Context(), "old.example.invalid"), "old.example.invalid")
}

func TestDockerHubIsReachedAtItsOtherName(t *testing.T) {
	t.Parallel()
	o := machine(t)
	o.TLSVerify = nil
	o.AuthFile = registrytest.AuthFile(t, "https://index.docker.io/v1/", "ann", "secret")
	var asked []*http.Request
	o.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
		asked = append(asked, req)
		answer := httptest.NewRecorder()
		if req.Header.Get("Authorization") == "" {
			answer.Header().Set("WWW-Authenticate", "Basic")
			answer.WriteHeader(http.StatusUnauthorized)
		}
		return answer.Result(), nil
	})
	repository, err := newClient(t, o).Repository("docker.io/library/alpine")
	require.NoError(t, err)
	_, err = repository.Manifest(t.Context(), "3")
	require.NoError(t, err)
	require.Len(t, asked, 2)
	require.Equal(t, "https://registry-1.docker.io/v2/library/alpine/manifests/3", asked[1].URL.String())
	user, password, _ := asked[1].BasicAuth()
	require.Equal(t, "ann secret", user+" "+password)
	require.Equal(t, []string{"signfleet"}, asked[1].Header["User-Agent"])
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestOneRepositoryHasOneLocation(t *testing.T) {
	t.Parallel()
	client := newClient(t, machine(t))
	for location, names := range map[string][]string{
		"registry-1.docker.io/library/app": {"docker.io/library/app", "registry-1.docker.io/library/app"},
		"registry.example.com/app":         {"registry.example.com/app", "Registry.example.com:443/app", "registry.example.com:80/app"},
		"registry.example.com:5000/app":    {"registry.example.com:5000/app"},
	} {
		for _, name := range names {
			repository, err := client.Repository(name)
			require.NoError(t, err)
			require.Equal(t, location, repository.Location())
			require.Equal(t, name, repository.Name())
		}
	}
}

func TestRedirectsCarryNoCredentials(t *testing.T) {
	t.Parallel()
	content := "payload"
	var authorization []string
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		authorization = append(authorization, req.Header.Get("Authorization"))
		_, _ = w.Write([]byte(content))
	}))
	t.Cleanup(cdn.Close)
	r := registrytest.New(t, registrytest.WithTokenAuth("ann", "secret", 0))
	r.PushManifest(t, "team/app", "v1", "linux/amd64")
	repository := repositoryOf(t, newClient(t, withCredentials(t, machine(t), r.Host())), r, "team/app")
	_, err := repository.Manifest(t.Context(), "v1") // now there is a token to leak
	require.NoError(t, err)

	r.Fail(registrytest.Match{Kind: registrytest.KindBlob}, registrytest.Fault{
		Status: 307, Header: http.Header{"Location": {cdn.URL + "/b"}},
	})
	got, err := repository.Blob(t.Context(), digest.FromString(content), 100)
	require.NoError(t, err)
	require.Equal(t, content, string(got))
	require.Equal(t, []string{""}, authorization)
}

func TestRedirectsThatAreNotFollowed(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.WithTLS())
	o := machine(t)
	o.TLSVerify, o.CertsDir = nil, r.CertsDir(t)
	repository := repositoryOf(t, newClient(t, o), r, "team/app")
	for name, location := range map[string]string{
		"plain http": "http://" + r.Host() + "/b?sig=hidden",
		"more than":  r.URL() + "/v2/team/app/blobs/" + digest.FromString("x").String(),
	} {
		r.Heal()
		r.Fail(registrytest.Match{Kind: registrytest.KindBlob}, registrytest.Fault{
			Times: registrytest.Always, Status: 307, Header: http.Header{"Location": {location}},
		})
		_, err := repository.Blob(t.Context(), digest.FromString("x"), 100)
		var refused *registry.RedirectError
		require.ErrorAs(t, err, &refused)
		require.ErrorContains(t, err, name)
		require.NotContains(t, err.Error(), "hidden")
		require.False(t, factsOf(t, err).Network())
	}
}

func TestRepositoryNamesThatAreRefused(t *testing.T) {
	t.Parallel()
	client := newClient(t, machine(t))
	for _, name := range []string{"", "app", "host/app:v1", "host.example.com/App", "host.example.com/app:v1", "docker.io/alpine"} {
		_, err := client.Repository(name)
		require.Error(t, err, name)
	}
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	for field, o := range map[string]registry.Options{
		"AuthFile":        {AuthFile: "/nowhere/auth.json"},
		"CertsDir":        {CertsDir: "/nowhere"},
		"RegistriesConf":  {RegistriesConf: "/nowhere"},
		"RegistriesDir":   {RegistriesDir: "/nowhere"},
		"HostConcurrency": {HostConcurrency: -1},
		"AnswerTimeout":   {AnswerTimeout: -1},
		"UserAgent":       {UserAgent: "a\r\nb"},
	} {
		_, err := registry.New(o)
		require.ErrorContains(t, err, field+": ")
	}
	o := machine(t)
	o.RegistriesConf = writeFile(t, "registries.conf", "[[registry")
	_, err := registry.New(o)
	require.ErrorContains(t, err, "registry configuration")
}

func TestHTTP2IsSpokenOverOneConnection(t *testing.T) {
	t.Parallel()
	var protocols sync.Map
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		protocols.Store(req.Proto, true)
		w.WriteHeader(http.StatusNotFound)
	}))
	server.EnableHTTP2 = true
	accepted := connections(server)
	server.StartTLS()
	t.Cleanup(server.Close)
	repository := repositoryAt(t, server, machine(t))
	_, err := repository.Manifest(t.Context(), "v1")
	require.ErrorIs(t, err, registry.ErrNotFound)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 5 {
				if _, err := repository.Has(t.Context(), digest.FromString("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	require.Equal(t, int64(1), accepted.Load(), "for all requests, side by side")
	protocols.Range(func(protocol, _ any) bool {
		require.Equal(t, "HTTP/2.0", protocol)
		return true
	})
}
