package latchkey

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"
)

// The change index has the changes of records in their order: sequence → kind and ID. An entry is
// written in the transaction of the change. Only the last change of each record is kept, so the
// index is as large as the data, and is never trimmed.

// recordKind says which table a changed record is in.
type recordKind byte

const (
	userKind recordKind = 1
	keyKind  recordKind = 2
)

// sequenceKey returns the key of a sequence in the change index. It is big-endian, so that the
// order of the bytes is the order of the numbers.
func sequenceKey(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, sequence)
}

// nextChange gives a record that is about to be written the next sequence, and moves the record's
// entry in the change index to it. *sequence is the sequence of the record's last change, or 0 for
// a new record. nextChange returns the stamp for the fields that the change sets.
//
// It returns ErrCorrupt if the change index has a later change of the record.
func (tx *Tx) nextChange(kind recordKind, id uuid.UUID, sequence *uint64) (stamp, error) {
	st, err := tx.readState()
	if err != nil {
		return stamp{}, err
	}
	if *sequence != 0 {
		// An earlier version of a record must not become the latest by being written again.
		if err := tx.checkLatest(kind, id, *sequence); err != nil {
			return stamp{}, err
		}
		if err := tx.delete(tableChanges, sequenceKey(*sequence)); err != nil {
			return stamp{}, err
		}
	}
	st.sequence++
	*sequence = st.sequence
	now := stamp{counter: st.sequence, replica: tx.replica}
	return now, tx.put(tableChanges, sequenceKey(st.sequence), changeEntry(kind, id))
}

// checkLatest returns ErrCorrupt unless the change index lists the record at sequence. A damaged
// file can have an old version of a page whose checksums are all right. The index gives such a page
// away.
func (tx *Tx) checkLatest(kind recordKind, id uuid.UUID, sequence uint64) error {
	entry, err := tx.etx.Get(tableChanges, sequenceKey(sequence))
	if err == nil && !bytes.Equal(entry, changeEntry(kind, id)) {
		err = fmt.Errorf("%w: the record of %s is not its last", ErrCorrupt, id)
	}
	return err
}

func changeEntry(kind recordKind, id uuid.UUID) []byte { return append([]byte{byte(kind)}, id[:]...) }
