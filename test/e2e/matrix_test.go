package e2e

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

var update = flag.Bool("update", false, "write what the matrix found into "+matrixPage)

// matrixPage has the matrix between its marks.
const (
	matrixPage  = "../../docs/compatibility.md"
	matrixBegin = "<!-- matrix: begin -->\n"
	matrixEnd   = "<!-- matrix: end -->\n"
)

// What a verifier says.
const (
	accepted = "accepted"
	refused  = "refused"
)

// verifier says whether an image is signed by a key.
type verifier struct {
	name string
	says func(m *machine, image peers.Image, publicKey string) error
}

func verifiers() []verifier {
	return []verifier{
		{"`cosign verify`", func(m *machine, image peers.Image, key string) error {
			return peers.CosignVerify(m.t.Context(), m.w.registry.Access(), image.Reference, key)
		}},
		{"`cosign verify --new-bundle-format=false`", func(m *machine, image peers.Image, key string) error {
			return peers.CosignVerify(m.t.Context(), m.w.registry.Access(), image.ByDigest(), key, "--new-bundle-format=false")
		}},
		{"containers/image, by tag", func(m *machine, image peers.Image, key string) error {
			return peers.PolicyVerify(m.t.Context(), m.w.registry.Access(), image.Reference, key)
		}},
		{"containers/image, by digest", func(m *machine, image peers.Image, key string) error {
			return peers.PolicyVerify(m.t.Context(), m.w.registry.Access(), image.ByDigest(), key)
		}},
		{"sigstore-go", func(m *machine, image peers.Image, key string) error {
			return peers.BundleVerify(m.t.Context(), m.w.registry.Access(), image.Reference, key)
		}},
		{"`sign-submit validate`", func(m *machine, image peers.Image, key string) error {
			return m.validate(image.Reference, key)
		}},
	}
}

// validate asks the program itself about an image.
func (m *machine) validate(reference, publicKey string) error {
	m.t.Helper()
	r := m.run("sign-submit", "validate", "--file", m.list(reference), "--sigstore-pubkey", publicKey,
		"--failed", m.failed(), "--tls-verify=false")
	if r.code == 0 {
		return nil
	}
	if r.code == 1 && slices.Contains([]string{"no-signature", "other-key", "wrong-identity"}, m.failures()[0].Class) {
		return &peers.RejectedError{Image: reference, Reason: m.failures()[0].Reason}
	}
	return fmt.Errorf("exit %d, %s", r.code, r)
}

// keyType is a kind of key that can sign.
type keyType struct {
	name string
	make func(t *testing.T) peers.KeyPair
}

func keyTypes() []keyType {
	curve := func(c elliptic.Curve) func(t *testing.T) peers.KeyPair {
		return func(t *testing.T) peers.KeyPair { return encrypted(t, ec(t, c)) }
	}
	bits := func(n int) func(t *testing.T) peers.KeyPair {
		return func(t *testing.T) peers.KeyPair { return encrypted(t, rsaKey(t, n)) }
	}
	return []keyType{
		{"ECDSA P-256", curve(elliptic.P256())},
		{"ECDSA P-256, not encrypted", func(t *testing.T) peers.KeyPair {
			key := ec(t, elliptic.P256())
			return plain(t, key, "PRIVATE KEY", pkcs8(t, key))
		}},
		{"ECDSA P-384", curve(elliptic.P384())},
		{"ECDSA P-521", curve(elliptic.P521())},
		{"Ed25519", func(t *testing.T) peers.KeyPair {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			require.NoError(t, err)
			return encrypted(t, key)
		}},
		{"RSA 2048", bits(2048)},
		{"RSA 3072", bits(3072)},
		{"RSA 4096", bits(4096)},
	}
}

// row is one image, and what each verifier says of it.
type row struct {
	attached string
	key      string
	says     []string // in the order of the verifiers
}

// matrix collects rows in the order in which they are asked for, whoever is
// done first.
type matrix struct {
	versions  []string // of the programs and libraries
	verifiers []verifier
	rows      []*row
}

// ask asks every verifier whether an image is signed by a key, and demands the
// answers. It returns what fills a row.
func (x *matrix) ask(t *testing.T, m *machine, image peers.Image, key peers.KeyPair, wants ...string) []string {
	t.Helper()
	require.Len(t, wants, len(x.verifiers))
	var says []string
	for i, v := range x.verifiers {
		err := v.says(m, image, key.Public)
		var rejected *peers.RejectedError
		switch {
		case err == nil:
			says = append(says, accepted)
		case errors.As(err, &rejected):
			says = append(says, refused)
		default:
			require.NoError(t, err)
		}
		require.Equal(t, wants[i], says[i], "%s: %v", v.name, err)
	}
	return says
}

// row adds a row to be filled.
func (x *matrix) row(attached, key string) *row {
	r := &row{attached: attached, key: key}
	x.rows = append(x.rows, r)
	return r
}

// table is the matrix as the page shows it.
func (x *matrix) table() string {
	var text strings.Builder
	fmt.Fprintf(&text, "With %s.\n\n", strings.Join(x.versions, ", "))
	line := func(cells ...string) { fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | ")) }
	heads := []string{"attached to the image", "asked for"}
	for _, v := range x.verifiers {
		heads = append(heads, v.name)
	}
	line(heads...)
	line(slices.Repeat([]string{"---"}, len(heads))...)
	for _, r := range x.rows {
		line(append([]string{r.attached, r.key}, r.says...)...)
	}
	return text.String()
}

// What signatures of every kind of key are worth to every verifier. The page
// about compatibility shows it as it was found here.
func TestCompatibilityMatrix(t *testing.T) {
	t.Parallel()
	x := &matrix{versions: versions(t), verifiers: verifiers()}
	formats := []struct {
		name  string
		wants []string
	}{
		{"tag", []string{accepted, accepted, accepted, accepted, refused, accepted}},
		{"referrer", []string{accepted, refused, refused, refused, accepted, accepted}},
		{"tag,referrer", []string{accepted, accepted, accepted, accepted, accepted, accepted}},
	}
	t.Run("rows", func(t *testing.T) {
		kinds := keyTypes()
		each := make(map[string][]*row)
		for _, format := range formats {
			for _, kind := range kinds {
				each[kind.name] = append(each[kind.name], x.row("`"+format.name+"`", kind.name))
			}
		}
		for _, kind := range kinds {
			t.Run(strings.ReplaceAll(kind.name, ",", ""), func(t *testing.T) {
				t.Parallel()
				key := kind.make(t)
				for i, format := range formats {
					m := newMachine(t)
					each[kind.name][i].says = x.ask(t, m, m.signedImage(t, key, format.name), key, format.wants...)
				}
			})
		}
		x.othersToo(t)
	})
	if t.Failed() {
		return
	}
	page, err := os.ReadFile(matrixPage)
	require.NoError(t, err)
	before, rest, begun := strings.Cut(string(page), matrixBegin)
	shown, after, ended := strings.Cut(rest, matrixEnd)
	require.True(t, begun && ended, "%s has no marks for the matrix", matrixPage)
	if *update {
		require.NoError(t, os.WriteFile(matrixPage, []byte(before+matrixBegin+x.table()+matrixEnd+after), 0o600))
		return
	}
	require.Equal(t, x.table(), shown, "run this test with -update, and see whether that is what it should be")
}

// versions are those with which the matrix is made.
func versions(t *testing.T) (all []string) {
	t.Helper()
	for _, pinned := range []struct{ name, file, module string }{
		{"cosign", "../tools/go.mod", "github.com/sigstore/cosign/v3"},
		{"sigstore-go", "../tools/go.mod", "github.com/sigstore/sigstore-go"},
		{"distribution", "../tools/go.mod", "github.com/distribution/distribution/v3"},
		{"containers/image", "../../go.mod", "github.com/containers/image/v5"},
	} {
		text, err := os.ReadFile(pinned.file)
		require.NoError(t, err)
		found := regexp.MustCompile(regexp.QuoteMeta(pinned.module) + ` (v\S+)`).FindSubmatch(text)
		require.NotNil(t, found, pinned.module)
		all = append(all, pinned.name+" "+string(found[1]))
	}
	return all
}

// signedImage is an image with one platform, signed in a format.
func (m *machine) signedImage(t *testing.T, key peers.KeyPair, format string) peers.Image {
	t.Helper()
	name := repository(t) + "/" + strings.ReplaceAll(format, ",", "-")
	image, err := m.w.pusher.Single(t.Context(), name+":1.0", "linux/amd64")
	require.NoError(t, err)
	m.signWith(m.list(image.Reference), append(m.key(key), "--format", format)...)
	return image
}

// othersToo adds images that others have signed as well, or that are known by
// another name.
func (x *matrix) othersToo(t *testing.T) {
	add := func(name, attached, asked string, work func(t *testing.T, of *row)) {
		of := x.row(attached, asked)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			work(t, of)
		})
	}
	add("another key", "`tag,referrer`", "another key", func(t *testing.T, of *row) {
		m := newMachine(t)
		image := m.signedImage(t, m.w.key, "tag,referrer")
		of.says = x.ask(t, m, image, newKey(t), refused, refused, refused, refused, refused, refused)
	})
	add("hidden", "`tag`, and a bundle by another key", "its key", func(t *testing.T, of *row) {
		m := newMachine(t)
		image := m.signedImage(t, m.w.key, "tag")
		require.NoError(t, peers.CosignSignBundle(t.Context(), m.w.registry.Access(), image.ByDigest(), newKey(t)))
		of.says = x.ask(t, m, image, m.w.key, refused, accepted, accepted, accepted, refused, accepted)
	})
	add("beside others", "`tag,referrer`, and both by another key", "its key", func(t *testing.T, of *row) {
		m := newMachine(t)
		image, theirs := m.signedImage(t, m.w.key, "tag,referrer"), newKey(t)
		require.NoError(t, peers.CosignSignBundle(t.Context(), m.w.registry.Access(), image.ByDigest(), theirs))
		require.NoError(t, peers.CosignSign(t.Context(), m.w.registry.Access(), image.ByDigest(), theirs))
		of.says = x.ask(t, m, image, m.w.key, accepted, accepted, accepted, accepted, accepted, accepted)
	})
	add("by digest", "`tag`, listed by digest", "its key", func(t *testing.T, of *row) {
		m := newMachine(t)
		image, err := m.w.pusher.Single(t.Context(), repository(t)+":1.0", "linux/amd64")
		require.NoError(t, err)
		m.signWith(m.list(image.ByDigest()), m.key(m.w.key)...)
		of.says = x.ask(t, m, image, m.w.key, accepted, accepted, refused, accepted, refused, refused)
	})
}
