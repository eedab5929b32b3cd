package config_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/sign"
)

// fingerprint names some key.
const fingerprint = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// valid are settings that can be obeyed.
func valid(change func(*config.Signing)) config.Signing {
	s := config.Signing{Formats: []string{"tag"}, ConfirmWrites: "auto", HostRequests: 1, Keys: []string{"one.key", "two.key"}}
	if change != nil {
		change(&s)
	}
	return s
}

func TestSigningThatCanBeObeyed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*config.Signing){
		"the defaults":   nil,
		"confirm always": func(s *config.Signing) { s.ConfirmWrites = "always" },
		"confirm never":  func(s *config.Signing) { s.ConfirmWrites = "never" },
		"both formats":   func(s *config.Signing) { s.Formats = []string{"tag", "referrer"} },
		"one passphrase": func(s *config.Signing) { s.PassphraseFiles = []string{"a"} },
		"one for each":   func(s *config.Signing) { s.PassphraseFiles = []string{"a", "b"} },
		"a rate":         func(s *config.Signing) { s.HostRate = 0.5 },
		"a key for another": func(s *config.Signing) {
			s.ReplaceKeys, s.ReplacePublicKeys = []string{fingerprint}, []string{"old.pub"}
		},
		"an annotation, twice":   func(s *config.Signing) { s.Annotations = []string{"a=1", "a=1"} },
		"an identity, and twice": func(s *config.Signing) { s.Identities = []string{"r.example=docker.io", " r.example=docker.io"} },
	} {
		require.NoError(t, valid(change).Validate(), name)
	}
}

func TestSigningThatIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		says   string
		change func(*config.Signing)
	}{
		{"host-requests: 0 is less than 1", func(s *config.Signing) { s.HostRequests = 0 }},
		{"host-rate: -1", func(s *config.Signing) { s.HostRate = -1 }},
		{"host-rate: NaN", func(s *config.Signing) { s.HostRate = math.NaN() }},
		{"host-rate: +Inf", func(s *config.Signing) { s.HostRate = math.Inf(1) }},
		{`confirm-writes: "yes" is none of`, func(s *config.Signing) { s.ConfirmWrites = "yes" }},
		{`format: "sig" is neither tag nor referrer`, func(s *config.Signing) { s.Formats = []string{"tag", "sig"} }},
		{`format: "tag" is there twice`, func(s *config.Signing) { s.Formats = []string{"tag", "tag"} }},
		{`format: ""`, func(s *config.Signing) { s.Formats = nil }},
		{"3 files for 2 of sigstore-key", func(s *config.Signing) { s.PassphraseFiles = []string{"a", "b", "c"} }},
		{`identity "r.example": no = in it`, func(s *config.Signing) { s.Identities = []string{"r.example"} }},
		{"annotation a: it is given as", func(s *config.Signing) { s.Annotations = []string{"a=1", "a=2"} }},
		{`annotation "a": no = in it`, func(s *config.Signing) { s.Annotations = []string{"a"} }},
		{"annotation timestamp", func(s *config.Signing) { s.Annotations = []string{"timestamp=1"} }},
		{"skip-index and recursive", func(s *config.Signing) { s.SkipIndex, s.Recursive = true, true }},
		{"replace-pubkey: it only goes with replace-key", func(s *config.Signing) { s.ReplacePublicKeys = []string{"old.pub"} }},
		{`replace-key: "9f86" is not the fingerprint of a key`, func(s *config.Signing) { s.ReplaceKeys = []string{"9f86"} }},
		{"is not the fingerprint of a key", func(s *config.Signing) { s.ReplaceKeys = []string{strings.Replace(fingerprint, "9f", "zz", 1)} }},
	} {
		require.ErrorContains(t, valid(c.change).Validate(), c.says)
	}
}

func TestKeyFiles(t *testing.T) {
	t.Parallel()
	files := func(passphrases ...string) []config.KeyFile {
		return valid(func(s *config.Signing) { s.PassphraseFiles = passphrases }).KeyFiles()
	}
	require.Equal(t, []config.KeyFile{{Path: "one.key"}, {Path: "two.key"}}, files())
	require.Equal(t, []config.KeyFile{{"one.key", "p"}, {"two.key", "p"}}, files("p"), "one for all")
	require.Equal(t, []config.KeyFile{{"one.key", "p"}, {"two.key", "q"}}, files("p", "q"))
	require.Equal(t, []config.KeyFile{{Path: "one.key"}, {"two.key", "q"}}, files("", "q"), "none for one that is not encrypted")
}

func TestKeysInAService(t *testing.T) {
	t.Parallel()
	mixed := valid(func(s *config.Signing) {
		s.Keys = []string{"hashivault://release", "one.key", "hashivault://other", "two.key"}
		s.PassphraseFiles = []string{"p", "q"}
	})
	require.NoError(t, mixed.Validate(), "passphrases are of files")
	require.Equal(t, []config.KeyFile{{Path: "hashivault://release"}, {"one.key", "p"}, {Path: "hashivault://other"}, {"two.key", "q"}}, mixed.KeyFiles())
	require.Equal(t, []string{"one.key", "two.key", "p", "q"}, mixed.SigningFiles())
	mixed.PassphraseFiles = []string{"p", "q", "r", "s"}
	require.ErrorContains(t, mixed.Validate(), "4 files for 2 of sigstore-key")

	only := valid(func(s *config.Signing) { s.Keys, s.PassphraseFiles = []string{"hashivault://release"}, []string{"p"} })
	require.ErrorContains(t, only.Validate(), "keys in a KMS have no passphrase")
	unknown := valid(func(s *config.Signing) { s.Keys = []string{"k8s://ns/key"} })
	require.ErrorContains(t, unknown.Validate(), "sigstore-key: k8s://ns/key: no key management service")
}

func TestReplacedKeys(t *testing.T) {
	t.Parallel()
	bare := strings.TrimPrefix(fingerprint, "sha256:")
	got, err := valid(func(s *config.Signing) { s.ReplaceKeys = []string{fingerprint, strings.ToUpper(bare), " " + bare} }).Replaced()
	require.NoError(t, err)
	require.Equal(t, []string{fingerprint}, got)
}

func TestSignaturesAreAsTheSettingsSay(t *testing.T) {
	t.Parallel()
	o, err := valid(nil).Sign()
	require.NoError(t, err)
	require.Equal(t, []sign.Format{sign.FormatTag}, o.Formats)
	require.Equal(t, sign.ConfirmAuto, o.ConfirmWrites)
	require.False(t, o.Timestamps || o.SkipIndex || o.Recursive || o.ImmutableFallback || o.ReportHidden)
	require.Empty(t, o.Annotations)
	require.Empty(t, o.Identities)

	o, err = valid(func(s *config.Signing) {
		s.Formats = []string{"referrer", " tag"}
		s.Annotations = []string{"team=a,b", "empty="}
		s.Identities = []string{"r.example/hub=docker.io", "r.example=mirror.example", "r.example/hub=docker.io"}
		s.Timestamps, s.Recursive, s.ImmutableFallback, s.ReportHidden = true, true, true, true
	}).Sign()
	require.NoError(t, err)
	require.Equal(t, []sign.Format{sign.FormatTag, sign.FormatReferrer}, o.Formats, "in one order")
	require.Equal(t, map[string]string{"team": "a,b", "empty": ""}, o.Annotations)
	require.Equal(t, []sign.IdentityRule{
		{Prefix: "r.example/hub", Replacement: "docker.io"}, {Prefix: "r.example", Replacement: "mirror.example"},
	}, o.Identities)
	require.True(t, o.Timestamps && o.Recursive && o.ImmutableFallback && o.ReportHidden)
}
