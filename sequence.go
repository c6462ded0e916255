package latchkey

import "github.com/google/uuid"

// Sequence returns the sequence of the last commit that the transaction sees. The transaction's own
// commit comes later. Each commit has a greater sequence than the one before. See [Store.Wait].
func (tx *Tx) Sequence() uint64 { return tx.etx.Sequence() }

// UserSequence returns the sequence of the commit that last changed a user, or 0 if there is no
// such user. A program that shows a user, and changes the user later, can read the sequence both
// times. If the two sequences differ, somebody has changed the user meanwhile. A user that this
// transaction has changed has a greater sequence than [Tx.Sequence].
//
// It returns an error of [Store.View].
func (tx *Tx) UserSequence(id uuid.UUID) (uint64, error) {
	return tx.etx.SequenceOf(tableUsers, id[:])
}

// KeySequence is [Tx.UserSequence] for a key. A change of the key's user or group does not count,
// and neither does a use of the key.
func (tx *Tx) KeySequence(id uuid.UUID) (uint64, error) {
	return tx.etx.SequenceOf(tableKeys, id[:])
}

// GroupSequence is [Tx.UserSequence] for a group. It returns 0 for a group without a record, which
// is a group that is enabled.
func (tx *Tx) GroupSequence(name string) (uint64, error) {
	if name == "" || len(name) > MaxGroup {
		return 0, nil // no entry can have the name
	}
	return tx.etx.SequenceOf(tableGroups, []byte(name))
}
