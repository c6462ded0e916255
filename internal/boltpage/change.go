package boltpage

import (
	"bytes"
	"encoding/binary"
)

// The value of an entry of a tracked table has the sequence of the entry's last change in front.
// The change index has the same sequence, so that the changes can be read in their order:
//
//	entry of a tracked table:   key                             → sequence (8 bytes), value
//	entry of the change index:  sequence (8), table, 0, key     → nothing
//
// A page of an earlier state, whose checks are all right, gives itself away: the change index does
// not have the sequences of its entries.

const (
	// Changes is the name of the change index.
	Changes = Marker + ".changes"
	// MaxTrackedName is the size of the longest name of a tracked table in bytes.
	MaxTrackedName = 64

	sequenceSize = 8
)

// ChangeKey returns the key in the change index of an entry that was last changed at sequence. The
// sequence is big-endian, so that the order of the keys is the order of the changes.
func ChangeKey(sequence uint64, table string, key []byte) []byte {
	k := make([]byte, 0, sequenceSize+len(table)+1+len(key))
	k = append(binary.BigEndian.AppendUint64(k, sequence), table...)
	return append(append(k, 0), key...)
}

// SplitChangeKey is the reverse of ChangeKey. It reports false if k is no such key.
func SplitChangeKey(k []byte) (sequence uint64, table string, key []byte, ok bool) {
	if len(k) < sequenceSize {
		return 0, "", nil, false
	}
	name, key, ok := bytes.Cut(k[sequenceSize:], []byte{0})
	if !ok || len(name) == 0 || len(name) > MaxTrackedName || len(key) == 0 {
		return 0, "", nil, false
	}
	return binary.BigEndian.Uint64(k), string(name), key, true
}

// JoinTracked returns a value of a tracked table with its sequence.
func JoinTracked(sequence uint64, value []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, sequenceSize+len(value)), sequence), value...)
}

// SplitTracked is the reverse of JoinTracked. It reports false if v is too short.
func SplitTracked(v []byte) (sequence uint64, value []byte, ok bool) {
	if len(v) < sequenceSize {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(v), v[sequenceSize:], true
}
