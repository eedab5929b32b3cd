package sign

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/signfleet/signfleet/internal/registry"
)

// maxAttachment is the longest manifest that containers/image reads.
const maxAttachment = 4 << 20

// descriptor is an entry of a manifest, in the order cosign writes it.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Size         int64             `json:"size"`
	Digest       digest.Digest     `json:"digest"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// attachment is a manifest under a tag to which several signers add: the one
// that carries the signatures of an image, or the index that lists the referrers
// of an image where the registry does not. It is as the registry has it; its
// zero value is the absent one.
type attachment struct {
	body    []byte
	digest  digest.Digest
	config  digest.Digest // empty for an index
	entries []oci.Descriptor

	list, configAt span
}

// span is a part of a body.
type span struct{ from, to int }

// change is what is to become of an attachment.
type change struct {
	add    []descriptor
	drop   []int       // places of entries
	config *descriptor // in place of the one that is there
}

func (c change) none() bool { return len(c.add) == 0 && len(c.drop) == 0 }

// absent tells that there is no attachment yet.
func (a attachment) absent() bool { return a.body == nil }

// lists tells whether an entry of the attachment has the digest.
func (a attachment) lists(d digest.Digest) bool {
	return slices.ContainsFunc(a.entries, func(entry oci.Descriptor) bool { return entry.Digest == d })
}

// parseAttachment finds the entries, a list of the name, and the config, and
// where both stand. It works on the text, since decoding and encoding again
// would drop the fields that this program does not know.
func parseAttachment(found registry.Manifest, list string) (attachment, error) {
	a := attachment{body: found.Body, digest: found.Digest}
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return attachment{}, errors.New("not a JSON object")
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return attachment{}, err
		}
		name, _ := token.(string)
		if seen[name] {
			return attachment{}, fmt.Errorf("%.128q is there twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return attachment{}, err
		}
		end := int(decoder.InputOffset())
		at := span{from: end - len(value), to: end}
		switch name {
		case "config":
			var config oci.Descriptor
			err = json.Unmarshal(value, &config)
			a.config, a.configAt = config.Digest, at
		case list:
			err = json.Unmarshal(value, &a.entries)
			a.list = at
		}
		if err != nil {
			return attachment{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := decoder.Token(); err != nil {
		return attachment{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return attachment{}, errors.New("something follows its end")
	}
	if !seen[list] {
		return attachment{}, fmt.Errorf("it has no %s", list)
	}
	return a, nil
}

// with is the manifest after a change: every byte that is not part of it stays
// as it is.
func (a attachment) with(name string, c change) ([]byte, error) {
	list, err := a.edited(c)
	if err != nil {
		return nil, err
	}
	body := bytes.Clone(a.body)
	replace := func(at span, text []byte) { body = slices.Concat(body[:at.from], text, body[at.to:]) }
	if c.config == nil {
		replace(a.list, list)
	} else {
		config, err := json.Marshal(c.config)
		if err != nil {
			return nil, err
		}
		// From the end to the beginning, so that the places stay right.
		if a.configAt.from > a.list.from {
			replace(a.configAt, config)
			replace(a.list, list)
		} else {
			replace(a.list, list)
			replace(a.configAt, config)
		}
	}
	if len(body) > maxAttachment {
		return nil, &ConflictError{Attachment: name, Reason: fmt.Sprintf("its manifest would be longer than the %d bytes that verifiers read", maxAttachment)}
	}
	return body, nil
}

// edited is the list of entries after a change.
func (a attachment) edited(c change) ([]byte, error) {
	added, err := json.Marshal(c.add)
	if err != nil {
		return nil, err
	}
	if len(c.drop) > 0 {
		return a.withoutDropped(c, added)
	}
	if len(a.entries) == 0 {
		return added, nil
	}
	// Both lists are kept but for the brackets where they meet.
	before := bytes.TrimRight(a.body[a.list.from:a.list.to-1], " \t\r\n")
	return slices.Concat(before, []byte(","), added[1:]), nil
}

// withoutDropped puts the list together anew, each entry that stays as it was.
func (a attachment) withoutDropped(c change, added []byte) ([]byte, error) {
	var entries, more []json.RawMessage
	if err := json.Unmarshal(a.body[a.list.from:a.list.to], &entries); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(added, &more); err != nil {
		return nil, err
	}
	var kept [][]byte
	for i, entry := range entries {
		if !slices.Contains(c.drop, i) {
			kept = append(kept, entry)
		}
	}
	for _, entry := range more {
		kept = append(kept, entry)
	}
	return slices.Concat([]byte("["), bytes.Join(kept, []byte(",")), []byte("]")), nil
}
