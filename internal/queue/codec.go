package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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

// decode reads one JSON object strictly: no unknown field, no field twice and
// nothing behind it. That it is of another version comes before all else but
// that it is no JSON at all.
func decode(data []byte, into any) error {
	if !json.Valid(data) {
		var nothing any
		return fmt.Errorf("decode message: %w", json.Unmarshal(data, &nothing)) // it says what is wrong
	}
	found, err := inspect(data)
	switch {
	case found > 0 && found != version:
		return &VersionError{Version: found}
	case err != nil:
		return fmt.Errorf("decode message: %w", err)
	case found < 1:
		return errors.New("decode message: no version")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

// Bounds of a message of ours. More would be a stranger's, and costly to check.
const (
	maxDepth = 16
	maxKeys  = 64 // of one object
	maxShown = 64 // bytes of a key, in an error
)

// inspect looks through a valid JSON value for its version and for what is wrong
// with its keys, since encoding/json itself takes the last of two equal keys in
// silence, and "ID" for "id". A version is found in spite of that. It reads bytes
// and not tokens: every outcome of a batch passes here.
func inspect(data []byte) (found int, err error) {
	type level struct {
		object bool
		first  int  // of its keys in keys
		value  bool // a key was read, its value comes
	}
	levels := make([]level, 1, 1+maxDepth) // the first is around the value
	var keys [][]byte                      // of the objects that are open, one behind the other
	for i := 0; i < len(data); i++ {
		top := &levels[len(levels)-1]
		switch c := data[i]; c {
		case '{', '[':
			if len(levels) > maxDepth {
				return found, fmt.Errorf("nested deeper than %d", maxDepth)
			}
			levels = append(levels, level{object: c == '{', first: len(keys)})
		case '}', ']':
			keys = keys[:top.first]
			levels = levels[:len(levels)-1]
		case ',':
			top.value = false
		case ':':
			top.value = true
			if len(levels) == 2 && found == 0 && string(keys[len(keys)-1]) == "version" {
				found = leadingNumber(data[i+1:])
			}
		case '"':
			text := stringAt(data[i:])
			i += len(text) + 1
			if !top.object || top.value {
				continue
			}
			if wrong := checkField(text, keys[top.first:]); wrong != nil && err == nil {
				err = wrong
			}
			keys = append(keys, text)
		}
	}
	return found, err
}

// stringAt is what stands between the quotes at the beginning of valid JSON.
func stringAt(data []byte) []byte {
	end := 1
	for data[end] != '"' {
		if data[end] == '\\' {
			end++
		}
		end++
	}
	return data[1:end]
}

// leadingNumber is the whole number that valid JSON begins with, or 0.
func leadingNumber(data []byte) int {
	data = bytes.TrimLeft(data, " \t\r\n")
	end := bytes.IndexAny(data, ",} \t\r\n")
	n, err := strconv.Atoi(string(data[:max(end, 0)]))
	if err != nil {
		return 0
	}
	return n
}

// checkField refuses a key that no message has, or that its object has already.
func checkField(key []byte, others [][]byte) error {
	for _, c := range key {
		if (c < 'a' || c > 'z') && c != '_' {
			return fmt.Errorf("unknown field %q", key[:min(len(key), maxShown)])
		}
	}
	if len(others) >= maxKeys {
		return fmt.Errorf("more than %d fields", maxKeys)
	}
	for _, other := range others {
		if bytes.Equal(key, other) {
			return fmt.Errorf("field %q stands twice", key[:min(len(key), maxShown)])
		}
	}
	return nil
}
