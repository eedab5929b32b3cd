package config

import (
	"io/fs"
	"os"
)

// Stamp tells a file that is as it was from one that was changed or replaced,
// also where its name is a link to another file now. What is in the file is not
// read: it may be a key.
type Stamp struct {
	info fs.FileInfo // nil where there is no such file
}

// StampOf looks at a file.
func StampOf(path string) Stamp {
	info, err := os.Stat(path)
	if err != nil {
		return Stamp{}
	}
	return Stamp{info: info}
}

// Same reports whether the file is as it was.
func (s Stamp) Same(other Stamp) bool {
	if s.info == nil || other.info == nil {
		return s.info == nil && other.info == nil
	}
	return os.SameFile(s.info, other.info) && s.info.ModTime().Equal(other.info.ModTime()) && s.info.Size() == other.info.Size()
}
