package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// decodeStrictly reads a policy. encoding/json alone takes "Default" for
// "default" and the last of two equal names, in silence.
func decodeStrictly(data []byte, into *document) error {
	if err := checkNames(data); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// checkNames walks the one JSON object that data must be, and refuses names
// that stand twice in an object and names on top that a policy does not have.
func checkNames(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := walk(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the policy")
	}
	return nil
}

// maxDepth is more than any policy has.
const maxDepth = 100

// walk reads one value.
func walk(d *json.Decoder, depth int) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	if depth > maxDepth {
		return errors.New("nested too deeply")
	}
	names := make(map[any]bool)
	for d.More() {
		if delim == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if names[name] {
				return fmt.Errorf("%q stands twice in one object", name)
			}
			if depth == 0 && name != "default" && name != "transports" {
				return fmt.Errorf("unknown name %q", name)
			}
			names[name] = true
		}
		if err := walk(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}
