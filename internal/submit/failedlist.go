package submit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// WriteFailed writes the failed list of a report to path, ready to be
// submitted again, and what is known of each line beside it, as JSON. Each
// file appears whole or not at all. Without failures, those of an earlier run
// are removed.
func WriteFailed(path string, r Report) error {
	details := DetailsPath(path)
	if special(path) {
		return writeSpecial(path, r)
	}
	if len(r.Failures) == 0 {
		for _, stale := range []string{path, details} {
			if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove the failed list of an earlier run: %w", err)
			}
		}
		return nil
	}
	data, err := json.MarshalIndent(struct {
		Batch  string    `json:"batch"`
		Failed []Failure `json:"failed"`
	}{r.Batch, r.Failures}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode failed list: %w", err)
	}
	if err := writeAtomically(details, append(data, '\n')); err != nil {
		return fmt.Errorf("write details of failed list: %w", err)
	}
	if err := writeAtomically(path, r.lines()); err != nil {
		return fmt.Errorf("write failed list: %w", err)
	}
	return nil
}

// lines are the lines of the failed list as their author wrote them.
func (r Report) lines() []byte {
	var lines bytes.Buffer
	for _, f := range r.Failures {
		lines.WriteString(f.Line)
		lines.WriteByte('\n')
	}
	return lines.Bytes()
}

// special reports whether path is there and no file: a device or a pipe, such
// as /dev/stdout. That is written to, and never replaced or removed.
func special(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.Mode().IsRegular()
}

// writeSpecial writes the list alone: there is no place beside a device.
func writeSpecial(path string, r Report) error {
	if len(r.Failures) == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // G304: the user's own choice
	if err != nil {
		return fmt.Errorf("write failed list: %w", err)
	}
	_, err = f.Write(r.lines())
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write failed list: %w", err)
	}
	return nil
}

// DetailsPath is where the details of a failed list go: the same name with
// .json for its extension.
func DetailsPath(path string) string {
	extension := filepath.Ext(path)
	if extension == ".json" || extension == filepath.Base(path) {
		return path + ".json" // the list itself is called so, or has no other name
	}
	return strings.TrimSuffix(path, extension) + ".json"
}

// writeAtomically replaces a file by one with the given content.
func writeAtomically(path string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // gone after the rename
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
