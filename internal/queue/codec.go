package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// version is the format of the messages that this room writes, and the only
// one so far that it reads.
const version = 1

// VersionError says that a message was written by a later version: a worker of
// that version may be able to read it.
type VersionError struct {
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("message version %d is not known here (version %d is)", e.Version, version)
}

// decode reads one JSON object strictly: the version first, then no unknown
// field, no field twice and nothing behind it.
func decode(data []byte, into any) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	switch {
	case head.Version < 1:
		return errors.New("decode message: no version")
	case head.Version != version:
		return &VersionError{Version: head.Version}
	}
	if err := checkKeys(data); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode message: data behind the message")
	}
	return nil
}

// keyPattern is what the fields of all messages are called. encoding/json would
// take "ID" for "id".
var keyPattern = regexp.MustCompile(`^[a-z_]+$`)

// checkKeys walks the tokens of one JSON value, since encoding/json itself takes
// the last of two equal keys in silence, whatever their case.
func checkKeys(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	type level struct {
		keys map[string]bool // nil in an array
		key  bool            // an object: the next token is a key
	}
	var levels []level
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			levels = levels[:len(levels)-1]
			continue
		}
		if n := len(levels); n > 0 && levels[n-1].keys != nil {
			top := &levels[n-1]
			if name, ok := token.(string); ok && top.key {
				if !keyPattern.MatchString(name) {
					return fmt.Errorf("unknown field %q", name)
				}
				if top.keys[name] {
					return fmt.Errorf("field %q stands twice", name)
				}
				top.keys[name] = true
				top.key = false
				continue
			}
			top.key = true
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{keys: map[string]bool{}, key: true})
		case json.Delim('['):
			levels = append(levels, level{})
		}
	}
}
