package submit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// WriteFailed writes the failed list of a report to path, ready to be
// submitted again, and what is known of each line beside it, as JSON. Each
// file appears whole or not at all. Without failures, the pair of an earlier
// run is removed; a file that is not of such a pair stays.
func WriteFailed(path string, r *Report) error {
	details := DetailsPath(path)
	if special(path) {
		return writeSpecial(path, r)
	}
	if r.Listed == 0 {
		if isDetails(details) != nil {
			return nil
		}
		for _, stale := range []string{path, details} {
			if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove the failed list of an earlier run: %w", err)
			}
		}
		return nil
	}
	if err := writeAtomically(details, r.WriteJSON); err != nil {
		return fmt.Errorf("write details of failed list: %w", err)
	}
	if err := writeAtomically(path, r.WriteText); err != nil {
		return fmt.Errorf("write failed list: %w", err)
	}
	return nil
}

// CheckFailed says why the failed list of an image list cannot be written to
// path, or only by destroying something else. Writing over the image list
// itself is right where that is a failed list fed back. inputs are further files
// that are read.
func CheckFailed(path, list string, inputs ...string) error {
	if path == "" {
		return errors.New("failed: no file given for the lines that could not be signed")
	}
	for _, written := range []string{path, DetailsPath(path)} {
		if used := slices.IndexFunc(inputs, func(input string) bool { return SameFile(written, input) }); used >= 0 {
			return fmt.Errorf("failed: %s would be written over %s, which is read: give another name", written, inputs[used])
		}
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("failed: %s is a directory", path)
	}
	if special(path) {
		return nil
	}
	details := DetailsPath(path)
	err := isDetails(details)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("failed: the reasons would go to %s, where something else is (%w): give another name", details, err)
	}
	if err != nil && SameFile(path, list) {
		return fmt.Errorf("failed: %s is the image list, which would be replaced: give another name", path)
	}
	probe, err := os.CreateTemp(filepath.Dir(path), ".sign-failed-*")
	if err != nil {
		return fmt.Errorf("failed: %s cannot be written: %w", path, err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// isDetails returns nil for a file that WriteFailed wrote beside a failed list.
func isDetails(path string) error {
	f, err := os.Open(path) //nolint:gosec // G304: the user's own choice
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	decoder := json.NewDecoder(f)
	for _, want := range []json.Token{json.Delim('{'), "batch"} {
		if token, err := decoder.Token(); err != nil || token != want {
			return errors.New("it is not of a failed list")
		}
	}
	return nil
}

// SameFile reports whether two paths lead to one file that is there.
func SameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// special reports whether path is there and no file: a device or a pipe, such
// as /dev/stdout. That is written to, and never replaced or removed.
func special(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.Mode().IsRegular()
}

// writeSpecial writes the list alone: there is no place beside a device.
func writeSpecial(path string, r *Report) error {
	if r.Listed == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // G304: the user's own choice
	if err != nil {
		return fmt.Errorf("write failed list: %w", err)
	}
	err = r.WriteText(f)
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

// writeAtomically replaces a file by one that is written meanwhile.
func writeAtomically(path string, write func(io.Writer) error) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // gone after the rename
	err = write(temp)
	err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
