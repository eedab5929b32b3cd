package imagelist_test

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/imagelist"
)

const (
	hex    = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"
	pin    = "sha256:" + hex
	pin512 = "sha512:" + hex + hex
)

func collect(lines iter.Seq2[imagelist.Line, error]) (all []imagelist.Line, err error) {
	for line, err := range lines {
		if err != nil {
			return all, err
		}
		all = append(all, line)
	}
	return all, nil
}

func read(t *testing.T, text string, o imagelist.Options) []imagelist.Line {
	t.Helper()
	all, err := collect(imagelist.Read(strings.NewReader(text), o))
	require.NoError(t, err)
	return all
}

func TestALineMeansWhatDockerReadsInIt(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"nginx":                             "docker.io/library/nginx:latest",
		"nginx:1.22":                        "docker.io/library/nginx:1.22",
		"user/nginx":                        "docker.io/user/nginx:latest",
		"docker.io/nginx":                   "docker.io/library/nginx:latest",
		"index.docker.io/nginx:1":           "docker.io/library/nginx:1",
		"docker.io/library/nginx:1.22":      "docker.io/library/nginx:1.22",
		"reg.io/nginx":                      "reg.io/nginx:latest",
		"reg.io/project/nginx:1.22":         "reg.io/project/nginx:1.22",
		"reg.io:5000/project/nginx":         "reg.io:5000/project/nginx:latest",
		"localhost/nginx":                   "localhost/nginx:latest",
		"127.0.0.1:5000/foo/bar/abc:latest": "127.0.0.1:5000/foo/bar/abc:latest",
		"[::1]:5000/foo/bar:1":              "[::1]:5000/foo/bar:1",
		"a/b/c":                             "docker.io/a/b/c:latest",
		"registry.suse.com/suse/sl-micro/6.0/baremetal-iso-image:2.1.3-4.2": "registry.suse.com/suse/sl-micro/6.0/baremetal-iso-image:2.1.3-4.2",
		"nginx@" + pin:                                   "docker.io/library/nginx@" + pin,
		"reg.io/a/nginx@" + pin512:                       "reg.io/a/nginx@" + pin512,
		"reg.io:443/a/nginx:1.22@" + pin:                 "reg.io:443/a/nginx:1.22@" + pin,
		"reg.io/a/nginx:sha256-" + hex + ".sig":          "reg.io/a/nginx:sha256-" + hex + ".sig",
		"quay.io/skopeo/stable reg.io/mirror/skopeo 1.2": "reg.io/mirror/skopeo:1.2",
		" nginx \t library/mirrored-nginx  1.22  ":       "docker.io/library/mirrored-nginx:1.22",
		"nginx:1 reg.io:5000/a/b/nginx 1.22":             "reg.io:5000/a/b/nginx:1.22",
		"\t reg.io/a/nginx:1\u00a0 ":                     "reg.io/a/nginx:1",
		"reg.io/a/nginx:1 # the one that works":          "reg.io/a/nginx:1",
		"reg.io/a/nginx:1\t// the one that works":        "reg.io/a/nginx:1",
		"reg.io/a/nginx:1 #\xe4 in Latin-1":              "reg.io/a/nginx:1",
	} {
		got := read(t, line, imagelist.Options{})
		require.Len(t, got, 1, line)
		require.NoError(t, got[0].Err, line)
		require.Equal(t, want, got[0].Reference, line)
		require.Equal(t, line, got[0].Text)
	}
}

func TestAPinIsGivenBesideTheReference(t *testing.T) {
	t.Parallel()
	got := read(t, "nginx\nnginx@"+pin+"\nnginx:1@"+pin+"\n", imagelist.Options{})
	require.Len(t, got, 3)
	require.Equal(t, []string{"", pin, pin}, []string{got[0].Digest, got[1].Digest, got[2].Digest})
}

func TestAnUnreadableLineSaysWhatToWriteInstead(t *testing.T) {
	t.Parallel()
	for line, reason := range map[string]string{
		"nginx latest":                      "two columns: write name:tag, or three columns (source, destination, tag) for a mirrored image",
		"a b c d":                           "4 columns: write one image a line, or three columns (source, destination, tag) for a mirrored image",
		"a b:1 2":                           `second of three columns, "b:1", has a tag or digest: leave it out, the third column is the tag`,
		"a b@" + pin + " 2":                 `second of three columns, "b@` + pin + `", has a tag or digest: leave it out, the third column is the tag`,
		"a b -2":                            `third of three columns, "-2", is not a tag: write 1 to 128 letters, digits, dots, dashes and underscores, the first no dot or dash`,
		"Please sign this":                  "first of three columns: upper-case letters in the repository: write it in lower case",
		"a b: c":                            "second of three columns: tag is missing after the colon: write name:tag",
		"reg.io/Project/nginx":              "upper-case letters in the repository: write it in lower case",
		"User/nginx":                        `upper-case letters in "User": write the repository in lower case`,
		"nginx:":                            "tag is missing after the colon: write name:tag",
		"reg.io//nginx":                     "a part of the name is empty: write registry/project/name:tag",
		"/nginx":                            "a part of the name is empty: write registry/project/name:tag",
		"reg.io/":                           "a part of the name is empty: write registry/project/name:tag",
		"nginx:1:2":                         "not an image reference: write registry/project/name:tag or name@sha256:digest",
		"nginx:" + strings.Repeat("a", 129): "not an image reference: write registry/project/name:tag or name@sha256:digest",
		hex:                                 "not an image reference: write registry/project/name:tag or name@sha256:digest",
		"docker://reg.io/a/nginx:1":         `a URL, not a reference: leave "docker://" out and write "reg.io/a/nginx:1"`,
		"nginx@sha256:abc":                  `digest "sha256:abc" is not valid: write sha256: and 64 hexadecimal digits in lower case after the @`,
		"nginx@":                            `digest "" is not valid: write sha256: and 64 hexadecimal digits in lower case after the @`,
		"nginx@" + strings.ToUpper(pin):     `digest "` + strings.ToUpper(pin) + `" is not valid: write sha256: and 64 hexadecimal digits in lower case after the @`,
		"nginx@md5:" + hex[:32]:             `digest "md5:` + hex[:32] + `" is not valid: write sha256: and 64 hexadecimal digits in lower case after the @`,
		"nginx#comment":                     `character '#' is not allowed: use letters, digits, dots, dashes and underscores`,
		"nginx:1.0+build":                   `character '+' is not allowed: use letters, digits, dots, dashes and underscores`,
		"nginx\x00":                         "NUL byte: save the list as UTF-8 text",
		"nginx\x1b[31m":                     `character '\x1b' (U+001B) is not allowed: write plain ASCII`,
		"ngin\u0445":                        `character 'х' (U+0445) is not allowed: write plain ASCII`,
		"nginx\u200b":                       `character '\u200b' (U+200B) is not allowed: write plain ASCII`,
		"ngin\xff":                          "not UTF-8 text: save the list as UTF-8",
		"a\rb\rc":                           "carriage return inside the line: save the list with LF or CRLF line ends",
		"# list\rnginx":                     "carriage return inside the line: save the list with LF or CRLF line ends",
		"reg.io/" + strings.Repeat("a/", 128) + "a": "repository is longer than 255 characters: no registry takes it",
	} {
		got := read(t, "\n"+line, imagelist.Options{})
		require.Len(t, got, 1, line)
		var bad *imagelist.LineError
		require.ErrorAs(t, got[0].Err, &bad, line)
		require.Equal(t, imagelist.LineError{Number: 2, Text: line, Reason: reason}, *bad)
		require.Equal(t, line, got[0].Text)
		require.Empty(t, got[0].Reference)
		require.Empty(t, got[0].Digest)
	}
}

func TestAnErrorNamesLineTextAndRemedy(t *testing.T) {
	t.Parallel()
	got := read(t, "\n\nnginx\x1b latest\n"+strings.Repeat("é", 500), imagelist.Options{})
	require.EqualError(t, got[0].Err, `line 3: character '\x1b' (U+001B) is not allowed: write plain ASCII (in "nginx\x1b latest")`)
	require.EqualError(t, got[1].Err, `line 4: character 'é' (U+00E9) is not allowed: write plain ASCII (in "`+strings.Repeat("é", 60)+`")`)
}

func TestBlankLinesAndCommentsCountButAreNotLines(t *testing.T) {
	t.Parallel()
	got := read(t, "\ufeff# images\r\n\r\n   \t\r\nnginx\r\n  // more\r\n#\xff\r\n# "+strings.Repeat("long ", 5000)+"\r\nbusybox", imagelist.Options{})
	require.Equal(t, []imagelist.Line{
		{Number: 4, Text: "nginx", Reference: "docker.io/library/nginx:latest"},
		{Number: 8, Text: "busybox", Reference: "docker.io/library/busybox:latest"},
	}, got)
	require.Empty(t, read(t, "", imagelist.Options{}))
	require.Empty(t, read(t, "\ufeff", imagelist.Options{}))
}

func TestTheByteOrderMarkIsNotPartOfTheFirstLine(t *testing.T) {
	t.Parallel()
	got := read(t, "\ufeffnginx\n\ufeffnginx\n", imagelist.Options{})
	require.Equal(t, imagelist.Line{Number: 1, Text: "nginx", Reference: "docker.io/library/nginx:latest"}, got[0])
	require.EqualError(t, got[1].Err, `line 2: byte order mark inside the list: remove it (in "\ufeffnginx")`)
}

func TestTooLongALineIsCutAndTheListGoesOn(t *testing.T) {
	t.Parallel()
	fits := "nginx" + strings.Repeat(" ", 4096-len("nginx"))
	for _, end := range []string{"\n", "\r\n"} {
		for _, long := range []string{fits + "x", strings.Repeat("é", 4000), strings.Repeat(" ", 4097), strings.Repeat("a", 1<<20)} {
			got := read(t, fits+end+long+end+"busybox"+end, imagelist.Options{})
			require.Len(t, got, 3)
			require.Equal(t, "docker.io/library/nginx:latest", got[0].Reference)
			require.Equal(t, fits, got[0].Text)
			require.Equal(t, imagelist.Line{Number: 3, Text: "busybox", Reference: "docker.io/library/busybox:latest"}, got[2])

			var bad *imagelist.LineError
			require.ErrorAs(t, got[1].Err, &bad)
			require.Equal(t, 2, bad.Number)
			require.Equal(t, "line is longer than 4096 bytes: write one image a line", bad.Reason)
			start, cut := strings.CutSuffix(got[1].Text, "…")
			require.True(t, cut)
			require.LessOrEqual(t, len(start), 4096)
			require.True(t, strings.HasPrefix(long, start))
			require.Error(t, read(t, got[1].Text, imagelist.Options{})[0].Err, "what is left of a line must not pass for a shorter reference")
		}
	}
}

func TestAListInAnotherEncodingIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"\xff\xfen\x00g\x00", "\xfe\xff\x00n", "\xff\xfe", "\xff\xfe\x00\x00n\x00\x00\x00", "\x00\x00\xfe\xff\x00\x00\x00n"} {
		all, err := collect(imagelist.Read(strings.NewReader(text), imagelist.Options{}))
		require.ErrorIs(t, err, imagelist.ErrEncoding)
		require.Empty(t, all)
	}
}

func TestAFailingReaderEndsTheList(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk on fire")
	for text, lines := range map[string]int{"": 0, "nginx\n": 1, "nginx\nbusybox:1.3": 1, "nginx\n" + strings.Repeat("a", 9000): 1} {
		all, err := collect(imagelist.Read(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), imagelist.Options{}))
		require.ErrorIs(t, err, broken)
		require.Len(t, all, lines, "a line cut off by the failure is no line")
		require.EqualError(t, err, fmt.Sprintf("read image list after line %d: disk on fire", lines))
	}
}

func TestTheListIsTheSameHoweverItArrives(t *testing.T) {
	t.Parallel()
	text := "\ufeffnginx\r\n# comment\r\n" + strings.Repeat("x", 5000) + "\r\na b\r\nreg.io/a/b:1"
	want := read(t, text, imagelist.Options{})
	require.Len(t, want, 4)
	for _, slow := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader} {
		got, err := collect(imagelist.Read(slow(strings.NewReader(text)), imagelist.Options{}))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestReadingStopsWithItsReader(t *testing.T) {
	t.Parallel()
	for line, err := range imagelist.Read(strings.NewReader("a b\nnginx\n"), imagelist.Options{}) {
		require.NoError(t, err)
		require.Error(t, line.Err)
		break
	}
	endless := io.MultiReader(strings.NewReader("nginx\n"), zeros{})
	for line, err := range imagelist.Read(endless, imagelist.Options{}) {
		require.NoError(t, err)
		require.Equal(t, "docker.io/library/nginx:latest", line.Reference)
		break
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
