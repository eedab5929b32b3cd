package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	config       = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
)

// startForgetful starts a registry that has one image under every name, takes
// whatever it is given and keeps nothing: what is left of the work is the
// signer's own.
func startForgetful() *httptest.Server {
	sum := func(s string) string {
		digest := sha256.Sum256([]byte(s))
		return "sha256:" + hex.EncodeToString(digest[:])
	}
	manifest := `{"schemaVersion":2,"mediaType":"` + manifestType + `","config":{"mediaType":"` + configType +
		`","digest":"` + sum(config) + `","size":` + strconv.Itoa(len(config)) + `},"layers":[]}`
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		reference := path[strings.LastIndexByte(path, '/')+1:]
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Location", path+"done")
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodPut:
			w.WriteHeader(http.StatusCreated)
		case strings.Contains(path, "/blobs/"):
			_, _ = w.Write([]byte(config))
		case strings.HasSuffix(reference, ".sig"):
			w.WriteHeader(http.StatusNotFound)
		default:
			w.Header().Set("Content-Type", manifestType)
			w.Header().Set("Docker-Content-Digest", sum(manifest))
			_, _ = w.Write([]byte(manifest))
		}
	}))
}
