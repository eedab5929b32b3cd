package station

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/rules"
	"github.com/signfleet/signfleet/internal/sign"
)

// desk is what a station signs with at one time: its keys, the policy, and the
// rules of what is signed with which of them. It never changes: where other
// settings are to hold, another one takes its place, and images in work are
// finished at the one where they began.
type desk struct {
	keys   []openKey
	policy string // its file; empty where there is none
	rules  *rules.List
	places []place // one for each rule; without rules the one for all images
}

// place is where what falls under a rule is signed.
type place struct {
	options sign.Options
	signer  *sign.Signer // nil where nothing is signed
}

// newDesk opens what settings name, as far as former has not opened it already.
func newDesk(ctx context.Context, c Config, former *desk) (*desk, error) {
	if err := c.Settings.Validate(); err != nil {
		return nil, err
	}
	gate, policyFile, err := loadPolicy(c)
	if err != nil {
		return nil, err
	}
	list, err := c.Source.Rules()
	if err != nil {
		return nil, err
	}
	d := &desk{policy: policyFile}
	if d.rules, err = rules.New(list); err != nil {
		return nil, err
	}
	replaced, err := replacedKeys(ctx, c)
	if err != nil {
		return nil, err
	}
	if d.keys, err = openKeys(ctx, c, replaced, former); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		list = []rules.Rule{{}}
	}
	for i, rule := range list {
		o, err := c.Settings.Under(rule).Sign()
		if err == nil {
			o.Keys, err = d.keysOf(rule)
		}
		if err != nil && d.rules.Len() > 0 {
			err = &rules.Error{Rule: i + 1, Reason: err.Error()}
		}
		if err != nil {
			return nil, err
		}
		o.Replaced, o.Gate = replaced, gate
		d.places = append(d.places, place{options: o})
	}
	return d, nil
}

// noLaxer refuses to go on without what held images back before, when nobody has
// said so: a file that is cut off, or away for a moment, says nothing either.
func (d *desk) noLaxer(former *desk, s config.Signing) error {
	if former.rules.Len() > 0 && d.rules.Len() == 0 {
		return errors.New(`rules: there were some, and there are none: to have everything signed say so, by - match: "**", or start again`)
	}
	if former.policy != "" && d.policy != former.policy && s.Policy == "" && !s.InsecurePolicy {
		return fmt.Errorf("policy %s is gone: name another one with policy, say insecure-policy, or start again", former.policy)
	}
	return nil
}

// keysOf are the keys that a rule names: by their files, as sigstore-key does,
// or by their fingerprints.
func (d *desk) keysOf(rule rules.Rule) ([]*sign.Key, error) {
	var chosen []*sign.Key
	for _, key := range d.keys {
		if len(rule.Keys) == 0 || slices.ContainsFunc(rule.Keys, key.isCalled) {
			chosen = append(chosen, key.Key)
		}
	}
	for _, name := range rule.Keys {
		if !slices.ContainsFunc(d.keys, func(key openKey) bool { return key.isCalled(name) }) {
			return nil, fmt.Errorf("keys: %s is none of the keys of sigstore-key: name a key as it is named there, or by its fingerprint", name)
		}
	}
	return chosen, nil
}

// equip makes the signers. with has what does not come from settings.
func (d *desk) equip(with sign.Options) error {
	for i := range d.places {
		if d.rules.Len() > 0 && d.rules.Rule(i).Deny {
			continue
		}
		p := &d.places[i]
		p.options.Registry, p.options.Locker, p.options.LockTTL, p.options.Log = with.Registry, with.Locker, with.LockTTL, with.Log
		p.options.Meters, p.options.Tracers = with.Meters, with.Tracers
		var err error
		if p.signer, err = sign.New(p.options); err != nil {
			return err
		}
	}
	return nil
}

// Sign signs an image if the rules let it.
func (d *desk) Sign(ctx context.Context, req sign.Request) (sign.Result, error) {
	if d.rules.Len() == 0 {
		return d.places[0].signer.Sign(ctx, req)
	}
	n, ok, err := d.rules.Find(req.Reference)
	rejected := func(format string, args ...any) (sign.Result, error) {
		return sign.Result{}, &sign.RejectedError{Reference: req.Reference, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case err != nil:
		return sign.Result{}, &sign.ReferenceError{Reference: req.Reference, Reason: err.Error()}
	case !ok:
		return rejected("none of the rules is for it")
	case d.rules.Rule(n).Deny:
		return rejected("rule %d denies it", n+1)
	}
	at := d.places[n]
	if key, ok := at.withholds(req.Keys); ok {
		return rejected("rule %d does not have it signed with the key %s", n+1, key)
	}
	if req.Identity != "" {
		names, err := sign.IdentitiesOf(req.Reference, at.options.Identities)
		if err != nil {
			return sign.Result{}, err
		}
		if !slices.Contains(names, req.Identity) {
			return rejected("rule %d has signatures call it %s, not %s", n+1, strings.Join(names, " or "), req.Identity)
		}
	}
	return at.signer.Sign(ctx, req)
}

// withholds finds a key that was asked for and that is not for these images.
func (p place) withholds(fingerprints []string) (string, bool) {
	for _, wanted := range fingerprints {
		if !slices.ContainsFunc(p.options.Keys, func(key *sign.Key) bool { return key.Fingerprint() == wanted }) {
			return wanted, true
		}
	}
	return "", false
}
