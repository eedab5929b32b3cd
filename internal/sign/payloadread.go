package sign

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// payloadClaim is what a payload says. It is proven by nothing until its
// signature is verified.
type payloadClaim struct {
	identity    string
	manifest    digest.Digest
	annotations map[string]json.RawMessage
}

// readPayload reads a payload by the rules of containers/image, which are
// stricter than cosign's: what it refuses here, it refuses on a pull.
func readPayload(body []byte) (payloadClaim, error) {
	var claim payloadClaim
	var critical, optional, identity, image json.RawMessage
	var kind, manifest string
	err := exactFields(body, "", map[string]any{"critical": &critical, "optional": &optional})
	if err == nil {
		err = exactFields(critical, "critical", map[string]any{"type": &kind, "image": &image, "identity": &identity})
	}
	if err == nil && kind != payloadType {
		err = fmt.Errorf("critical.type is %.128q", kind)
	}
	if err == nil {
		err = exactFields(image, "critical.image", map[string]any{"docker-manifest-digest": &manifest})
	}
	if err == nil {
		claim.manifest, err = digest.Parse(manifest)
	}
	if err == nil {
		err = exactFields(identity, "critical.identity", map[string]any{"docker-reference": &claim.identity})
	}
	if err == nil {
		claim.annotations, err = readOptional(optional)
	}
	if err != nil {
		return payloadClaim{}, fmt.Errorf("its payload is none that containers/image accepts: %w", err)
	}
	return claim, nil
}

// readOptional reads the further claims of a payload. Two of them have a meaning
// to containers/image, which it holds them to.
func readOptional(text json.RawMessage) (map[string]json.RawMessage, error) {
	if bytes.Equal(text, []byte("null")) {
		return nil, nil
	}
	claims, err := fieldsOf(text, "optional")
	if err != nil {
		return nil, err
	}
	var creator string
	if value, ok := claims["creator"]; ok && json.Unmarshal(value, &creator) != nil {
		return nil, errors.New("optional.creator is no text")
	}
	var at float64
	if value, ok := claims["timestamp"]; ok && (json.Unmarshal(value, &at) != nil || at != float64(int64(at))) {
		return nil, errors.New("optional.timestamp is no whole number")
	}
	return claims, nil
}

// exactFields reads the members of an object that has just these.
func exactFields(text []byte, name string, into map[string]any) error {
	fields, err := fieldsOf(text, name)
	if err != nil {
		return err
	}
	for key := range fields {
		if _, ok := into[key]; !ok {
			return fmt.Errorf("%s: it is not known", within(name, key))
		}
	}
	for key, to := range into {
		value, ok := fields[key]
		if !ok {
			return fmt.Errorf("%s is missing", within(name, key))
		}
		if err := json.Unmarshal(value, to); err != nil {
			return fmt.Errorf("%s is of another type", within(name, key))
		}
	}
	return nil
}

// fieldsOf are the members of an object, none of which may be there twice: two
// readers could each take another one.
func fieldsOf(text []byte, name string) (map[string]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, fmt.Errorf("%s is no JSON object", within(name, ""))
	}
	fields := map[string]json.RawMessage{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("%s is not the JSON it should be", within(name, ""))
		}
		key, _ := token.(string)
		if _, ok := fields[key]; ok {
			return nil, fmt.Errorf("%s is there twice", within(name, key))
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("%s is not the JSON it should be", within(name, key))
		}
		fields[key] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("%s is not the JSON it should be", within(name, ""))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows %s", within(name, ""))
	}
	return fields, nil
}

// within names a member of a member, for people.
func within(name, key string) string {
	switch {
	case name == "" && key == "":
		return "the payload"
	case name == "":
		return fmt.Sprintf("%.128s", key)
	case key == "":
		return name
	}
	return fmt.Sprintf("%s.%.128s", name, key)
}
