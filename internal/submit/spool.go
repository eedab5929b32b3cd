package submit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// spool keeps records that would be too many for memory: a line of JSON each, in
// a temporary file without a name, so nothing is left of it however the program
// ends. The zero value is empty and has no file yet. One goroutine uses it at a
// time.
type spool struct {
	file *os.File
	out  *bufio.Writer
	size int64
}

// append adds a record and returns where it is.
func (s *spool) append(record any) (offset int64, err error) {
	data, err := json.Marshal(record)
	if err != nil {
		return 0, fmt.Errorf("encode a record for the temporary file: %w", err)
	}
	return s.appendLine(data)
}

// appendLine adds a record as it is in a spool.
func (s *spool) appendLine(line []byte) (offset int64, err error) {
	if s.file == nil {
		if err := s.create(); err != nil {
			return 0, fmt.Errorf("make a temporary file (TMPDIR names another place for it): %w", err)
		}
	}
	offset = s.size
	_, err = s.out.Write(line)
	if err == nil {
		err = s.out.WriteByte('\n')
	}
	if err != nil {
		return 0, fmt.Errorf("write to a temporary file (TMPDIR names another place for it): %w", err)
	}
	s.size += int64(len(line)) + 1
	return offset, nil
}

func (s *spool) create() error {
	file, err := os.CreateTemp("", "sign-submit-*")
	if err != nil {
		return err
	}
	if err := os.Remove(file.Name()); err != nil {
		return errors.Join(err, file.Close())
	}
	s.file, s.out = file, bufio.NewWriterSize(file, 64<<10)
	return nil
}

// typicalRecord is room for the most of them.
const typicalRecord = 1 << 10

// line is the record at an offset as it is in the file.
func (s *spool) line(offset int64) ([]byte, error) {
	if err := s.flush(); err != nil {
		return nil, err
	}
	for room := typicalRecord; ; room *= 4 {
		chunk := make([]byte, min(int64(room), s.size-offset))
		if _, err := s.file.ReadAt(chunk, offset); err != nil {
			return nil, fmt.Errorf("read the temporary file: %w", err)
		}
		if end := bytes.IndexByte(chunk, '\n'); end >= 0 {
			return chunk[:end], nil
		}
		if int64(room) >= s.size-offset {
			return nil, fmt.Errorf("read the temporary file: %w", io.ErrUnexpectedEOF)
		}
	}
}

// each calls visit for the records there are, in the order they were added. The
// line is its to read until it returns.
func (s *spool) each(visit func(offset int64, line []byte) error) error {
	if s.file == nil {
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(s.file, 0, s.size), 64<<10)
	for offset := int64(0); ; {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the temporary file: %w", err)
		}
		if err := visit(offset, line[:len(line)-1]); err != nil {
			return err
		}
		offset += int64(len(line))
	}
}

// readLine reads a line with its end, in the reader's own memory where it fits.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	head := bytes.Clone(line)
	rest, err := in.ReadBytes('\n')
	return append(head, rest...), err
}

func (s *spool) flush() error {
	if s.file == nil {
		return nil
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write to a temporary file (TMPDIR names another place for it): %w", err)
	}
	return nil
}

// Close gives up the file.
func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	*s = spool{}
	return err
}
