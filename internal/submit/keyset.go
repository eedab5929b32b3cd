package submit

import (
	"crypto/sha256"
	"encoding/binary"
)

// key stands for the id of a request, whatever its length: of some millions no
// two have the same.
type key [16]byte

func keyOf(id string) key {
	sum := sha256.Sum256([]byte(id))
	return key(sum[:len(key{})])
}

// keySet is a set of keys in not much more memory than they take: of a million,
// a map takes twice as much. It is many small tables, so that growing copies
// little at a time. The zero value is an empty set.
type keySet struct {
	tables [256]keyTable
	count  int
}

// keyTable holds keys where their bits say or, when that is taken, behind it.
// The key of all zeros stands for a free slot: none is that of an id.
type keyTable struct {
	slots []key
	used  int
}

// A table that is this full, in percent, grows by this much.
const (
	tableFull  = 85
	tableGrows = 25
	tableFirst = 8
)

// add reports whether the key was not in the set.
func (s *keySet) add(k key) bool {
	t := &s.tables[k[0]]
	if t.used*100 >= len(t.slots)*tableFull {
		t.grow()
	}
	at := t.slot(k)
	if t.slots[at] == k {
		return false
	}
	t.slots[at] = k
	t.used++
	s.count++
	return true
}

func (s *keySet) has(k key) bool {
	t := &s.tables[k[0]]
	return len(t.slots) > 0 && t.slots[t.slot(k)] == k
}

// slot is where a key is, or would be.
func (t *keyTable) slot(k key) int {
	at := int(binary.LittleEndian.Uint32(k[1:])) % len(t.slots)
	for t.slots[at] != k && t.slots[at] != (key{}) {
		if at++; at == len(t.slots) {
			at = 0
		}
	}
	return at
}

func (t *keyTable) grow() {
	old := t.slots
	t.slots = make([]key, max(tableFirst, len(old)+len(old)*tableGrows/100))
	for _, k := range old {
		if k != (key{}) {
			t.slots[t.slot(k)] = k
		}
	}
}
