// Package imagelist reads image lists: text with one image reference a line.
//
// It decides what a line means: which lines are blank or comment, how a short
// name is completed, which image a line of the mirror format stands for, and
// what the registry and project overrides make of it. Every line that it
// cannot read comes back with its number, its text and the reason, and the
// list goes on. It needs the memory of one line, however long the list is.
//
// It does not know where the list comes from, does not log, and asks no
// registry: whether an image exists is for others to find out. It does not
// drop duplicate lines either, since that takes the memory of the whole list.
package imagelist

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLine is the longest line that is read, in bytes and without its end. The
// longest reference has a host of 255 bytes, a repository of 255, a tag of 128
// and a digest of 135; the mirror format holds two of them and a tag. The rest
// is room for comments.
const maxLine = 4096

// cutMark ends the text of a line that was cut. No reference holds it, so a
// cut line that is fed back is not taken for a shorter reference.
const cutMark = "…"

// ErrEncoding is the reader's failure for a list that is not UTF-8 at all, by
// its byte order mark.
var ErrEncoding = errors.New("image list is UTF-16 or UTF-32 text: save it as UTF-8")

// Line is one line of an image list that is neither blank nor comment.
type Line struct {
	// Number is the line's number in the file, from 1.
	Number int
	// Text is the line as its author wrote it, without line end and byte
	// order mark. It ends in "…" when the line was too long and was cut.
	Text string
	// Reference is what the line means after overrides, in full:
	// host/repository:tag, host/repository@digest or
	// host/repository:tag@digest. It is empty when Err is set.
	Reference string
	// Digest is the digest in Reference, if there is one: the image must have it.
	Digest string
	// Err is a *LineError when the line cannot be read, and nil otherwise.
	Err error
}

// LineError says why a line of the list could not be read.
type LineError struct {
	Number int    // of the line, from 1
	Text   string // of the line, as in Line
	Reason string // what is wrong and what to write instead
}

// excerpt is how much of a line an error shows.
const excerpt = 120

func (e *LineError) Error() string {
	text := e.Text
	if len(text) > excerpt {
		text = cutAt(text, excerpt)
	}
	return fmt.Sprintf("line %d: %s (in %q)", e.Number, e.Reason, text)
}

// Read returns the lines of a list one after the other, without the blank ones
// and the comments. A line that cannot be read has its Err set, and the list
// goes on. An error beside the line means that there is no list to read (the
// options are not valid, it is no UTF-8 text, r failed); it is the last thing
// returned, and a line that r broke off in the middle is not among the lines.
//
// A comment is a line that begins with # or //, or the rest of a line from the
// first word on that begins so; neither can begin a reference.
//
// r is read as the lines are asked for, so they can be ranged over only once.
func Read(r io.Reader, o Options) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		over, err := o.override()
		if err != nil {
			yield(Line{}, err)
			return
		}
		s := newScanner(r)
		for {
			text, cut, err := s.next()
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(Line{}, fmt.Errorf("read image list after line %d: %w", s.number, err))
				return
			}
			line, ok := readLine(s.number, text, cut, over)
			if ok && !yield(line, nil) {
				return
			}
		}
	}
}

// readLine gives a line its meaning; it is not ok for blank lines and comments.
func readLine(number int, text string, cut bool, over override) (Line, bool) {
	words, comment := splitWords(text)
	if len(words) == 0 && !strings.ContainsRune(text, '\r') && (comment || !cut) {
		return Line{}, false
	}
	line := Line{Number: number, Text: text}
	if cut {
		line.Text += cutMark
	}
	ref, reason := reference{}, ""
	switch {
	case strings.ContainsRune(text, '\r'):
		// Asked first: a file with the line ends of old Macs is one long
		// line, which could pass for a comment or for three columns.
		reason = "carriage return inside the line: save the list with LF or CRLF line ends"
	case cut:
		reason = fmt.Sprintf("line is longer than %d bytes: write one image a line", maxLine)
	default:
		ref, reason = parseWords(words, over)
	}
	if reason != "" {
		line.Err = &LineError{Number: number, Text: line.Text, Reason: reason}
		return line, true
	}
	line.Reference, line.Digest = ref.text, ref.digest
	return line, true
}

// splitWords splits a line at blanks and drops its comment. Control characters
// other than the tab do not separate words: they are refused later, by name.
func splitWords(text string) (words []string, comment bool) {
	words = strings.FieldsFunc(text, func(r rune) bool {
		return r == ' ' || r == '\t' || r > unicode.MaxASCII && unicode.Is(unicode.Zs, r)
	})
	for i, word := range words {
		if strings.HasPrefix(word, "#") || strings.HasPrefix(word, "//") {
			return words[:i], true
		}
	}
	return words, false
}

// scanner splits a text into lines of bounded length.
type scanner struct {
	r      *bufio.Reader
	number int // of the line returned last
}

func newScanner(r io.Reader) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, maxLine+len("\r\n"))}
}

// next returns the next line without its end, and whether it was cut to the
// greatest length. It returns io.EOF after the last line.
func (s *scanner) next() (text string, cut bool, err error) {
	if s.number == 0 {
		if err := s.skipMark(); err != nil {
			return "", false, err
		}
	}
	raw, err := s.r.ReadSlice('\n')
	full := errors.Is(err, bufio.ErrBufferFull)
	lastLine := errors.Is(err, io.EOF) && len(raw) > 0
	if err != nil && !full && !lastLine {
		return "", false, err
	}
	text = strings.TrimRight(string(bytes.TrimSuffix(raw, []byte("\n"))), "\r")
	if len(text) > maxLine {
		text, cut = cutAt(text, maxLine), true
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		// What was read may have lost carriage returns at its end that
		// are no line end, so it counts as cut whatever its length.
		cut = true
		_, err = s.r.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false, err
	}
	s.number++
	return text, cut, nil
}

// skipMark passes over the byte order mark of UTF-8 and refuses the others.
func (s *scanner) skipMark() error {
	start, err := s.r.Peek(3)
	switch {
	case bytes.Equal(start, []byte("\xef\xbb\xbf")):
		_, err = s.r.Discard(len(start))
		return err
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")),
		bytes.HasPrefix(start, []byte("\x00\x00\xfe")):
		return ErrEncoding
	case errors.Is(err, io.EOF):
		return nil // shorter than a mark; ReadSlice meets the end again
	}
	return err
}

// cutAt returns at most n bytes of s and splits no character.
func cutAt(s string, n int) string {
	for back := 0; back < utf8.UTFMax && n > back; back++ {
		if utf8.RuneStart(s[n-back]) {
			return s[:n-back]
		}
	}
	return s[:n]
}
