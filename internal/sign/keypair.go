package sign

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// KeyPairFiles are the files that [WriteKeyPair] writes for a prefix.
func KeyPairFiles(prefix string) (private, public string) { return prefix + ".key", prefix + ".pub" }

// CheckKeyPair says why a pair cannot be written without replacing something.
func CheckKeyPair(prefix string) error {
	private, public := KeyPairFiles(prefix)
	for _, path := range []string{private, public} {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s is there already, and is not overwritten: %w", path, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", path, withoutPaths(err))
		}
	}
	return nil
}

// WriteKeyPair writes a key pair to the files of a prefix, the private key so
// that its owner alone can read it. Each file appears whole or not at all, and
// neither is left without the other when that could not be written. Unless
// replace is set, files that are there stay.
func WriteKeyPair(prefix string, private, public []byte, replace bool) error {
	privatePath, publicPath := KeyPairFiles(prefix)
	key, err := newStaged(privatePath, private, 0o600)
	if err != nil {
		return err
	}
	defer key.discard()
	pub, err := newStaged(publicPath, public, 0o644)
	if err != nil {
		return err
	}
	defer pub.discard()
	undo, err := key.publish(replace)
	if err != nil {
		return err
	}
	if _, err := pub.publish(replace); err != nil {
		return errors.Join(err, undo())
	}
	return nil
}

// staged is a file that is written and has not got its name yet.
type staged struct {
	temp, path string
}

func newStaged(path string, content []byte, mode fs.FileMode) (staged, error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return staged{}, fmt.Errorf("write %s: %w", path, withoutPaths(err))
	}
	s := staged{temp: file.Name(), path: path}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		s.discard()
		return staged{}, fmt.Errorf("write %s: %w", path, err)
	}
	return s, nil
}

// publish gives the file its name. undo puts things back as they were.
func (s staged) publish(replace bool) (undo func() error, err error) {
	if !replace {
		if err := s.claim(); err != nil {
			return nil, fmt.Errorf("write %s: %w", s.path, withoutPaths(err))
		}
		return func() error { return os.Remove(s.path) }, nil
	}
	if undo, err = s.keepFormer(); err != nil {
		return nil, fmt.Errorf("replace %s: %w", s.path, withoutPaths(err))
	}
	if err := os.Rename(s.temp, s.path); err != nil {
		return nil, errors.Join(fmt.Errorf("replace %s: %w", s.path, withoutPaths(err)), undo())
	}
	return undo, nil
}

// keepFormer gives what has the name another one, so that undo can bring it back.
func (s staged) keepFormer() (undo func() error, err error) {
	info, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return func() error { return os.Remove(s.path) }, nil
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errors.New("it is a directory")
	}
	former := s.former()
	if os.Link(s.path, former) != nil {
		err = os.Rename(s.path, former) // a file system without a second name for a file
	}
	return func() error { return os.Rename(former, s.path) }, err
}

func (s staged) former() string { return s.temp + ".former" }

// claim takes the name if nobody has it. Two names for one file do that at once;
// where a file system has no such thing, an empty file holds the place.
func (s staged) claim() error {
	err := os.Link(s.temp, s.path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	place, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(place.Close(), os.Rename(s.temp, s.path)); err != nil {
		return errors.Join(err, os.Remove(s.path))
	}
	return nil
}

// discard removes what has not got its name, and what another had before.
func (s staged) discard() {
	_ = os.Remove(s.temp) // gone already when it has its name
	_ = os.Remove(s.former())
}

// withoutPaths leaves the names of files to the error around it.
func withoutPaths(err error) error {
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return withoutPath(err)
}
