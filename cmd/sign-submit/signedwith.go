package main

import (
	"slices"
	"strings"

	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
)

// signedWith is what decides what the signatures of this process are: for the
// record of a batch, and to know it again. Lists are sorted where their order
// decides nothing, so that the same settings in another order are the same.
//
// What is to be done where a signature cannot be attached (--immutable-fallback),
// or what is looked at (--report-hidden), is no part of it: a retry may choose
// that anew.
func signedWith(st *station.Station, s config.Signing) (keys []string, format string, o queue.SigningOptions, err error) {
	asked, err := s.Sign()
	if err != nil {
		return nil, "", o, err
	}
	var formats []string
	for _, f := range asked.Formats {
		formats = append(formats, string(f))
	}
	for _, rule := range asked.Identities {
		o.Identities = append(o.Identities, rule.Prefix+"="+rule.Replacement)
	}
	for key, value := range asked.Annotations {
		o.Annotations = append(o.Annotations, key+"="+value)
	}
	if o.Replaced, err = s.Replaced(); err != nil {
		return nil, "", o, err
	}
	keys = st.Fingerprints()
	for _, list := range [][]string{keys, o.Identities, o.Annotations, o.Replaced} {
		slices.Sort(list)
	}
	o.Timestamps, o.SkipIndex, o.Recursive = asked.Timestamps, asked.SkipIndex, asked.Recursive
	return keys, strings.Join(formats, ","), o, nil
}

// signingFlags are the flags that such options come from; none for the defaults.
func signingFlags(o queue.SigningOptions) []string {
	var flags []string
	for _, list := range []struct {
		flag   string
		values []string
	}{{"annotation", o.Annotations}, {"identity", o.Identities}, {"replace-key", o.Replaced}} {
		for _, value := range list.values {
			flags = append(flags, "--"+list.flag+"="+value)
		}
	}
	for _, s := range []struct {
		flag string
		on   bool
	}{{"record-creation-timestamp", o.Timestamps}, {"recursive", o.Recursive}, {"skip-index", o.SkipIndex}} {
		if s.on {
			flags = append(flags, "--"+s.flag)
		}
	}
	return flags
}
