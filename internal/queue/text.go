package queue

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Text is a line of an image list, which need not be text: bytes that are no
// UTF-8 travel in base64, as {"bytes": "..."} in place of a string, so that a
// failed list is exact to the byte wherever it is written.
type Text string

type rawText struct {
	Bytes []byte `json:"bytes"`
}

// MarshalJSON writes a string, or the bytes where they are none.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(rawText{Bytes: []byte(t)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Text) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '{' {
		return json.Unmarshal(data, (*string)(t))
	}
	var raw rawText
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("read a line: %w", err)
	}
	*t = Text(raw.Bytes)
	return nil
}
