package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// What is known of the referrers API of a host, or of one of its repositories.
const (
	referrersUnknown int32 = iota
	referrersListed
	referrersNotListed
)

// maxContradictions bounds the repositories that are remembered to differ from
// their host. Beyond it they are asked anew.
const maxContradictions = 1 << 12

// referrersKnown is what has been learned of a host's referrers API. Hosts that
// lead some of their paths to another registry have it for some repositories
// only, which shows in contradictions: those are kept for the repository.
type referrersKnown struct {
	host         atomic.Int32
	saysSubject  atomic.Bool // answers to manifests have told of it
	contradicted atomic.Bool // some repository has

	mu           sync.Mutex
	repositories map[string]int32 // by path, where a repository is not known to be as its host
}

// of tells whether referrers of a repository are listed.
func (k *referrersKnown) of(path string) (has, known bool) {
	state := k.host.Load()
	if k.contradicted.Load() {
		k.mu.Lock()
		if own, ok := k.repositories[path]; ok {
			state = own
		}
		k.mu.Unlock()
	}
	return state == referrersListed, state != referrersUnknown
}

func (k *referrersKnown) contradict(path string, state int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.repositories == nil || len(k.repositories) >= maxContradictions {
		k.repositories = make(map[string]int32)
	}
	k.repositories[path] = state
	k.contradicted.Store(true)
}

// listed notes that referrers of a repository were listed.
func (k *referrersKnown) listed(path string) {
	k.host.CompareAndSwap(referrersUnknown, referrersListed)
	if k.contradicted.Load() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.repositories, path)
	}
}

// lacking notes that they were not. Where they were known to be, that is
// forgotten first: one odd answer does not outweigh the others. wholeHost tells
// that the answer is to the form of the request, and not to what it names.
func (k *referrersKnown) lacking(path string, wholeHost bool) {
	if wholeHost || k.host.Load() != referrersListed {
		if !k.host.CompareAndSwap(referrersListed, referrersUnknown) {
			k.host.CompareAndSwap(referrersUnknown, referrersNotListed)
		}
		return
	}
	if has, _ := k.of(path); has {
		k.contradict(path, referrersUnknown)
	} else {
		k.contradict(path, referrersNotListed)
	}
}

// noteSubject learns from the answer to a manifest that refers to another: the
// header tells of the API. Without it, one that has told of it before may lead
// this repository elsewhere, which is asked then.
func (k *referrersKnown) noteSubject(path string, header http.Header, manifest []byte) {
	says, has := header.Get("OCI-Subject") != "", k.host.Load() == referrersListed
	if says && has && !k.contradicted.Load() && k.saysSubject.Load() || !says && !k.saysSubject.Load() {
		return // nothing new
	}
	var m struct {
		Subject *struct {
			Digest string `json:"digest"`
		} `json:"subject"`
	}
	if json.Unmarshal(manifest, &m) != nil || m.Subject == nil {
		return
	}
	if says {
		k.saysSubject.Store(true)
		k.host.Store(referrersListed)
		k.listed(path)
		return
	}
	if has, known := k.of(path); has && known {
		k.contradict(path, referrersUnknown)
	}
}

// refusesReferrers reports one of the answers of hosts that do not know the
// path. With the API the answer is an empty index where nothing refers.
func refusesReferrers(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Foreign {
		return false
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

// refusesForm reports the answers among them that are to the form of the
// request, whatever it names.
func refusesForm(err error) bool {
	var e *Error
	return !errors.As(err, &e) || e.Status != http.StatusNotFound && e.Status != http.StatusBadRequest
}

// refusesSubject reports an answer that can be to the manifest asked about. From a
// host that has the API it says no more.
func refusesSubject(err error) bool {
	return refusesUnknownSubject(err) || hasCode(err, http.StatusNotFound, "MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND")
}

// refusesUnknownSubject reports how Quay answers where it does not know the
// manifest. Hosts without the API do not answer so.
func refusesUnknownSubject(err error) bool {
	return hasCode(err, http.StatusBadRequest, "MANIFEST_INVALID")
}

func hasCode(err error, status int, codes ...string) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status &&
		slices.ContainsFunc(e.Codes, func(d Diagnostic) bool { return slices.Contains(codes, d.Code) })
}

// RefusesSharedConfig tells whether the host is known to refuse attachments
// whose config blob is one for all.
func (r *Repository) RefusesSharedConfig() bool { return r.host.refusesSharedConfig.Load() }

// NoteSharedConfigRefused remembers that it does.
func (r *Repository) NoteSharedConfigRefused() { r.host.refusesSharedConfig.Store(true) }
