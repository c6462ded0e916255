package latchkey

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"
)

// The change index tells what changed in which order: sequence → kind and ID. It is written in the transaction of the
// change itself and keeps only the newest entry of each record, so it is as large as the data and is never trimmed.

// recordKind says which table the record of a change is in.
type recordKind byte

const (
	userKind recordKind = 1
	keyKind  recordKind = 2
)

// sequenceKey is a sequence as the key of the change index: big-endian, so that the order of bytes is that of numbers.
func sequenceKey(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, sequence)
}

// changed moves the sequence on for a record whose last change had the sequence before (0 for a new one), and returns
// the sequence of this change. It returns ErrCorrupt if the record is not its last.
func (tx *Tx) changed(kind recordKind, id uuid.UUID, before uint64) (uint64, error) {
	st, err := tx.readState()
	if err != nil {
		return 0, err
	}
	if before != 0 {
		// A record of an earlier state must not become the last by being written again.
		if err := tx.checkLatest(kind, id, before); err != nil {
			return 0, err
		}
		if err := tx.etx.Delete(tableChanges, sequenceKey(before)); err != nil {
			return 0, err
		}
	}
	st.sequence++
	tx.dirty = true
	return st.sequence, tx.etx.Put(tableChanges, sequenceKey(st.sequence), changeEntry(kind, id))
}

// checkLatest returns ErrCorrupt unless a record's sequence is the last that its change has in the index. In a damaged
// file an earlier state of a page can be found in the place of the last, with every checksum right.
func (tx *Tx) checkLatest(kind recordKind, id uuid.UUID, sequence uint64) error {
	entry, err := tx.etx.Get(tableChanges, sequenceKey(sequence))
	if err == nil && !bytes.Equal(entry, changeEntry(kind, id)) {
		err = fmt.Errorf("%w: the record of %s is not its last", ErrCorrupt, id)
	}
	return err
}

func changeEntry(kind recordKind, id uuid.UUID) []byte { return append([]byte{byte(kind)}, id[:]...) }
