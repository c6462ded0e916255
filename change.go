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

// nextChange gives a record that is about to be written the next sequence, and moves its entry in the
// change index there. *sequence is that of the record's last change, or 0 for a new record. nextChange
// returns the stamp for the fields that the change sets.
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
