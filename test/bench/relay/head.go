package relay

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"strconv"
	"strings"
)

// maxHead bounds the head of a request; tokens make some long.
const maxHead = 64 << 10

var errHead = errors.New("not the head of a request")

// request is what is counted of one.
type request struct {
	method, path string
}

// head is everything of a request before its body.
type head struct {
	request
	bytes   []byte
	length  int64
	chunked bool
	expects bool // the body comes when it is asked for
}

// readHead reads up to the body of the next request.
func readHead(from *bufio.Reader) (head, error) {
	var h head
	for {
		first := len(h.bytes) == 0
		if first {
			if c, err := from.Peek(1); err != nil || c[0] < 'A' || c[0] > 'Z' {
				return head{}, cmp.Or(err, errHead) // a TLS handshake has no line to wait for
			}
		}
		line, err := from.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return head{}, err
		}
		h.bytes = append(h.bytes, line...)
		if len(h.bytes) > maxHead || err != nil {
			return head{}, errHead
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case first:
			if err := h.readFirst(line); err != nil {
				return head{}, err
			}
		case len(line) == 0:
			return h, nil
		default:
			h.readField(line)
		}
	}
}

func (h *head) readFirst(line []byte) error {
	words := strings.Fields(string(line))
	if len(words) != 3 || !strings.HasPrefix(words[2], "HTTP/1.") {
		return errHead
	}
	h.method = words[0]
	h.path, _, _ = strings.Cut(words[1], "?")
	return nil
}

func (h *head) readField(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimSpace(value)
	switch {
	case bytes.EqualFold(name, []byte("Content-Length")):
		h.length, _ = strconv.ParseInt(string(value), 10, 64)
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		h.chunked = bytes.EqualFold(value, []byte("chunked"))
	case bytes.EqualFold(name, []byte("Expect")):
		h.expects = true
	}
}

// copyBody passes on the body that follows the head.
func (h *head) copyBody(to *bufio.Writer, from *bufio.Reader) error {
	if !h.chunked {
		_, err := io.CopyN(to, from, h.length)
		return err
	}
	for {
		line, err := from.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, _, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), ";")
		n, err := strconv.ParseInt(strings.TrimSpace(size), 16, 64)
		if err != nil {
			return err
		}
		if _, err := to.Write(line); err != nil {
			return err
		}
		if n == 0 {
			return copyTrailer(to, from)
		}
		if _, err := io.CopyN(to, from, n+int64(len("\r\n"))); err != nil {
			return err
		}
	}
}

func copyTrailer(to *bufio.Writer, from *bufio.Reader) error {
	for {
		line, err := from.ReadSlice('\n')
		if err != nil {
			return err
		}
		if _, err := to.Write(line); err != nil {
			return err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
}

// statusOf reads the status of an answer from its first bytes; 0 when there is none.
func statusOf(part []byte) int {
	const before = len("HTTP/1.1 ")
	if len(part) < before+3 || !bytes.HasPrefix(part, []byte("HTTP/1.")) {
		return 0
	}
	status, err := strconv.Atoi(string(part[before : before+3]))
	if err != nil {
		return 0
	}
	return status
}
