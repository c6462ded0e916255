package boltpage

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The value of an entry of a tracked table has the place of the entry's last change in front. The
// change index lists the entry at the same place, so that the changes can be read in their order:
//
//	entry of a tracked table:   key              → place (8 bytes), value
//	entry of the change index:  place (8 bytes)  → table, 0, key
//
// A page of an earlier state, whose checks are all right, gives itself away: the change index does
// not list its entries at their places.
//
// The key of the change index is short, because branch pages have copies of such keys. With the
// table and the key in it, the index of 300,000 entries has one level more.

const (
	// Changes is the name of the change index.
	Changes = Marker + ".changes"
	// MaxTrackedName is the size of the longest name of a tracked table in bytes.
	MaxTrackedName = 64

	placeSize  = 8
	numberBits = 24
)

// Place is the place of a change among all changes: the sequence of its commit, and its number in
// that commit. Places are in the order of their sequences.
type Place uint64

// The greatest sequence of a commit, and the greatest number of a change in it. At a thousand
// commits in a second, the sequences last for 34 years.
const (
	MaxSequence = 1<<(64-numberBits) - 1
	MaxNumber   = 1<<numberBits - 1
)

// NewPlace returns a place. Sequence and number must not be greater than MaxSequence and MaxNumber.
func NewPlace(sequence, number uint64) Place { return Place(sequence<<numberBits | number) }

// Sequence returns the sequence of the commit.
func (p Place) Sequence() uint64 { return uint64(p) >> numberBits }

// Key returns the key of the place in the change index. It is big-endian, so that the order of the
// keys is the order of the places.
func (p Place) Key() []byte { return binary.BigEndian.AppendUint64(nil, uint64(p)) }

// String returns the sequence and the number, as in "7.0".
func (p Place) String() string { return fmt.Sprintf("%d.%d", p.Sequence(), uint64(p)&MaxNumber) }

// ChangedEntry returns the value that the change index has for the change of an entry.
func ChangedEntry(table string, key []byte) []byte {
	v := append(make([]byte, 0, len(table)+1+len(key)), table...)
	return append(append(v, 0), key...)
}

// SplitChange returns what an entry of the change index says. It reports false if it is no such
// entry.
func SplitChange(k, v []byte) (place Place, table string, key []byte, ok bool) {
	name, key, ok := bytes.Cut(v, []byte{0})
	if !ok || len(k) != placeSize || len(name) == 0 || len(name) > MaxTrackedName || len(key) == 0 || len(key) > MaxKey {
		return 0, "", nil, false
	}
	return Place(binary.BigEndian.Uint64(k)), string(name), key, true
}

// JoinTracked returns a value of a tracked table with its place.
func JoinTracked(place Place, value []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, placeSize+len(value)), uint64(place)), value...)
}

// SplitTracked is the reverse of JoinTracked. It reports false if v is too short.
func SplitTracked(v []byte) (place Place, value []byte, ok bool) {
	if len(v) < placeSize {
		return 0, nil, false
	}
	return Place(binary.BigEndian.Uint64(v)), v[placeSize:], true
}
