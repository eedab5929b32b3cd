package station

import "github.com/signfleet/signfleet/internal/registry"

// throttle is the registry client as a worker loop knows it: with a word for it
// when a registry has wanted fewer requests.
type throttle struct {
	*registry.Client
	wanted chan struct{} // holds one word, however often it is said before it is heard
}

// newClient makes a registry client that a worker loop can share with others.
func newClient(o registry.Options) (throttle, error) {
	wanted := make(chan struct{}, 1)
	o.OnThrottled = func(string) {
		select {
		case wanted <- struct{}{}:
		default:
		}
	}
	client, err := registry.New(o)
	return throttle{client, wanted}, err
}

// Throttled has something to receive when a registry has wanted fewer requests.
func (t throttle) Throttled() <-chan struct{} { return t.wanted }
