package registrytest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// Immutable is how a registry refuses to change a tag.
type Immutable string

// The registries whose answers are known.
const (
	ImmutableHarbor    Immutable = "Harbor"            // 412 PRECONDITION
	ImmutableQuay      Immutable = "Quay"              // 409 TAG_IMMUTABLE
	ImmutableECR       Immutable = "Amazon ECR"        // 400 TAG_INVALID
	ImmutableGoogle    Immutable = "Artifact Registry" // 400 MANIFEST_INVALID
	ImmutableAlibaba   Immutable = "Alibaba Cloud"     // 403 DENIED, and says why
	ImmutableDockerHub Immutable = "Docker Hub"        // 403 and no more
)

// ImmutableRegistries are all of them.
func ImmutableRegistries() []Immutable {
	return []Immutable{ImmutableHarbor, ImmutableQuay, ImmutableECR, ImmutableGoogle, ImmutableAlibaba, ImmutableDockerHub}
}

// WithImmutableTags refuses each PUT of a manifest under a tag that exists, also
// of the same bytes, in the way of one registry. New tags, manifests by digest
// and what the test itself stores are not refused.
func WithImmutableTags(like Immutable) Option { return func(r *Registry) { r.immutable = like } }

// refusesTag answers a write to a tag that may not change.
func (r *Registry) refusesTag(ctx context.Context, w http.ResponseWriter, request Request) bool {
	repository, tag := request.Repository, request.Reference
	if r.immutable == "" || strings.Contains(tag, ":") {
		return false
	}
	if _, _, exists := r.manifest(ctx, repository, tag); !exists {
		return false
	}
	switch r.immutable {
	case ImmutableHarbor:
		writeError(w, http.StatusPreconditionFailed, "PRECONDITION",
			fmt.Sprintf("Failed to process request due to '%s:%s' configured as immutable.", repository, tag))
	case ImmutableQuay:
		writeError(w, http.StatusConflict, "TAG_IMMUTABLE", "tag is immutable and cannot be overwritten")
	case ImmutableECR:
		writeError(w, http.StatusBadRequest, "TAG_INVALID", fmt.Sprintf(
			"The image tag '%s' already exists in the '%s' repository and cannot be overwritten because the repository is immutable.", tag, repository))
	case ImmutableGoogle:
		writeError(w, http.StatusBadRequest, "MANIFEST_INVALID",
			fmt.Sprintf("cannot update tag %s. The repository has enabled tag immutability", tag))
	case ImmutableAlibaba:
		writeError(w, http.StatusForbidden, "DENIED", "The requested tag already exists and cannot be overwritten.")
	default:
		w.WriteHeader(http.StatusForbidden)
	}
	return true
}
