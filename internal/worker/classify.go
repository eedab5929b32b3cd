package worker

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/signfleet/signfleet/internal/deadline"
	"github.com/signfleet/signfleet/internal/registry"
	"github.com/signfleet/signfleet/internal/sign"
)

// The classes of failure: a closed list. The first ones are permanent, another
// attempt would end the same way.
const (
	InvalidRequest       = "invalid-request"
	NotFound             = "not-found"
	DigestMismatch       = "digest-mismatch"
	Unauthorized         = "unauthorized"
	Denied               = "denied"
	Immutable            = "immutable"
	UnsupportedMediaType = "unsupported-media-type"
	PolicyRejected       = "policy-rejected"
	Poison               = "poison"

	Timeout             = "timeout"
	RateLimited         = "rate-limited"
	RegistryUnavailable = "registry-unavailable"
	Network             = "network"
	KeyUnavailable      = "key-unavailable"
	Conflict            = "conflict"
	Internal            = "internal"
)

// failure is what a failed attempt means.
type failure struct {
	class      string
	permanent  bool          // another attempt cannot help
	waited     bool          // it is the bound on waiting that was reached
	retryAfter time.Duration // the registry asked for this pause
	unheard    bool          // it says nothing of the registry, which had no say in it
}

// classify turns the facts that registry and sign report into a class. It is
// the only place that knows both.
func classify(err error) failure {
	var (
		timeout     *deadline.TimeoutError
		wait        *deadline.WaitError
		key         *sign.KeyError
		reference   *sign.ReferenceError
		rejected    *sign.RejectedError
		platform    *sign.PlatformError
		pinned      *sign.MismatchError
		unsupported *sign.UnsupportedError
		immutable   *sign.ImmutableError
		conflict    *sign.ConflictError
		answer      *registry.Error
		mismatch    *registry.MismatchError
		large       *registry.TooLargeError
		blocked     *registry.BlockedError
		disabled    *registry.AttachmentsDisabledError
		credential  *registry.CredentialError
		redirect    *registry.RedirectError
		throttled   *registry.ThrottledError
	)
	permanent := func(class string) failure { return failure{class: class, permanent: true} }
	ours := func(class string) failure { return failure{class: class, permanent: true, unheard: true} }
	switch {
	// Why a call was ended comes before what it said when it was.
	case errors.As(err, &wait):
		return failure{class: waitClass(wait.For), waited: true}
	case errors.As(err, &timeout):
		return failure{class: Timeout}
	case errors.As(err, &reference), errors.As(err, &platform):
		return ours(InvalidRequest)
	case errors.Is(err, sign.ErrUnknownKey), errors.As(err, &rejected):
		return ours(PolicyRejected)
	case errors.As(err, &key):
		return failure{class: KeyUnavailable, unheard: true}
	case errors.As(err, &pinned), errors.As(err, &mismatch):
		return permanent(DigestMismatch)
	case errors.As(err, &unsupported), errors.As(err, &large):
		return permanent(UnsupportedMediaType)
	case errors.As(err, &immutable):
		return permanent(Immutable)
	case errors.As(err, &conflict):
		return failure{class: Conflict}
	case errors.As(err, &redirect):
		return permanent(Denied)
	case errors.As(err, &blocked), errors.As(err, &disabled):
		return ours(Denied)
	case errors.As(err, &credential):
		return ours(Unauthorized)
	case errors.As(err, &throttled):
		return failure{class: RateLimited, retryAfter: throttled.For}
	case errors.As(err, &answer):
		return classifyAnswer(answer)
	}
	return failure{class: Internal, unheard: true}
}

// denials are the statuses of a registry that understood and will not: those of
// a read-only one (405) and of Harbor's project policies (412) among them.
var denials = []int{
	http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusPreconditionFailed, http.StatusUnavailableForLegalReasons,
}

// classifyAnswer reads an answer of a registry, or the lack of one.
func classifyAnswer(e *registry.Error) failure {
	switch {
	case e.Foreign:
		// A storage behind the registry answered: nothing is said of the image.
		return failure{class: RegistryUnavailable, retryAfter: e.RetryAfter}
	case e.Immutable():
		return failure{class: Immutable, permanent: true}
	case e.Status == http.StatusNotFound:
		return failure{class: NotFound, permanent: true}
	case e.Status == http.StatusUnauthorized:
		return failure{class: Unauthorized, permanent: true}
	case slices.Contains(denials, e.Status):
		return failure{class: Denied, permanent: true}
	case e.Status == http.StatusUnsupportedMediaType:
		return failure{class: UnsupportedMediaType, permanent: true}
	case e.Status == http.StatusConflict:
		return failure{class: Conflict, retryAfter: e.RetryAfter}
	case e.Status == http.StatusTooManyRequests:
		return failure{class: RateLimited, retryAfter: e.RetryAfter}
	case e.Status >= http.StatusInternalServerError:
		return failure{class: RegistryUnavailable, retryAfter: e.RetryAfter}
	case e.Network(), e.Status == http.StatusRequestTimeout:
		return failure{class: Network, retryAfter: e.RetryAfter}
	case errors.Is(e, context.DeadlineExceeded):
		return failure{class: Timeout} // of one call: the image has time left
	}
	return failure{class: Internal, retryAfter: e.RetryAfter}
}

func waitClass(turn deadline.Turn) string {
	switch turn {
	case deadline.Lock:
		return Conflict
	case deadline.Rate:
		return RateLimited
	case deadline.Breaker:
		return RegistryUnavailable
	}
	return Internal
}
