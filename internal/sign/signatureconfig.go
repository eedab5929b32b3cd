package sign

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"
)

// constantConfig is the config of every attachment we begin, where nothing
// asks for another. Nobody reads it to verify; the fields are those without
// which Quay refuses a manifest. One blob for all means that it is uploaded
// once per repository.
const constantConfig = `{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}`

// signatureConfig is a config as cosign writes it: it names the layers, so that
// it holds for one attachment only.
type signatureConfig struct {
	Architecture string          `json:"architecture"`
	Created      time.Time       `json:"created"`
	History      []configHistory `json:"history"`
	OS           string          `json:"os"`
	RootFS       oci.RootFS      `json:"rootfs"`
	Config       struct{}        `json:"config"`
}

type configHistory struct {
	Created time.Time `json:"created"`
}

// fullConfig is the config of an attachment with the layers, made at a time that
// may be zero. What a layer holds is not compressed, so that its digest is its
// diff id too.
func fullConfig(layers []digest.Digest, at time.Time) ([]byte, error) {
	at = at.UTC().Truncate(time.Second)
	config := signatureConfig{Created: at, RootFS: oci.RootFS{Type: "layers", DiffIDs: layers}}
	for range layers {
		config.History = append(config.History, configHistory{Created: at})
	}
	body, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("config of an attachment: %w", err)
	}
	return body, nil
}

// configDescriptor is how a manifest names a config.
func configDescriptor(config []byte) descriptor {
	return descriptor{MediaType: oci.MediaTypeImageConfig, Size: int64(len(config)), Digest: digest.FromBytes(config)}
}
