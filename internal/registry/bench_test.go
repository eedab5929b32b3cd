package registry_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/registry"
)

// BenchmarkManifest is what a request costs above the connection: the
// connections are replaced, so that all allocations are of the layers between
// the caller and net/http's transport (and of a small answer).
func BenchmarkManifest(b *testing.B) {
	body := []byte(`{"schemaVersion":2}`)
	answer := http.Header{"Content-Type": {"application/vnd.oci.image.manifest.v1+json"}}
	for name, challenge := range map[string]string{
		"anonymous": "",
		"basic":     `Basic realm="r"`,
		"token":     `Bearer realm="https://auth.example.com/token",service="s"`,
	} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			file := func(name, content string) string {
				path := filepath.Join(dir, name)
				require.NoError(b, os.WriteFile(path, []byte(content), 0o600))
				return path
			}
			client, err := registry.New(registry.Options{
				AuthFile:       file("auth.json", `{"auths": {"registry.example.com": {"auth": "YW5uOnNlY3JldA=="}}}`),
				RegistriesConf: file("registries.conf", ""),
				CertsDir:       dir,
				RegistriesDir:  b.TempDir(),
				Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
					resp := &http.Response{StatusCode: 200, Header: answer, Request: req, Body: io.NopCloser(bytes.NewReader(body))}
					switch {
					case req.URL.Host == "auth.example.com":
						resp.Body = io.NopCloser(bytes.NewReader([]byte(`{"token":"t","expires_in":36000}`)))
					case challenge != "" && req.Header.Get("Authorization") == "":
						resp.StatusCode = http.StatusUnauthorized
						resp.Header = http.Header{"Www-Authenticate": {challenge}}
					}
					return resp, nil
				}),
			})
			require.NoError(b, err)
			b.Cleanup(client.Close)
			repository, err := client.Repository("registry.example.com/team/app")
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := repository.Manifest(b.Context(), "v1"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
