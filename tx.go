package latchkey

import (
	"fmt"

	"github.com/google/uuid"
)

// A Tx is a transaction that [Store.Update] or [Store.View] hands to its function. It has the operations of [Store] on
// users and keys, all in one transaction; in a View those that change something return [ErrReadOnly]. It must not be
// used by two goroutines at once. After its function has returned, its methods return [ErrClosed].
type Tx struct {
	store    *Store
	etx      EngineTx
	state    *storeState
	dirty    bool
	keys     map[uuid.UUID]int // how many the owners have whose keys were counted
	writes   int
	half     error               // of an operation that failed when it had begun to write
	touched  touched             // whose cached logins may be no longer true
	pending  concealed[[]rehash] // what was to be written besides
	rehashed uint64              // how many of these were
}

// Format keeps stored verifiers out of whatever prints a Tx.
func (tx *Tx) Format(f fmt.State, _ rune) { fmt.Fprint(f, "latchkey.Tx") }

// storeState is the record that every write moves on: the sequence, and counts that are cheaper kept than made.
type storeState struct {
	sequence uint64
	users    uint64
	keys     uint64
	unknown  []byte
}

var keyState = []byte("state")

func (tx *Tx) readState() (*storeState, error) {
	if tx.state != nil {
		return tx.state, nil
	}
	st := &storeState{}
	record, err := tx.etx.Get(tableMeta, keyState)
	if err != nil {
		return nil, err
	}
	msg, err := openRecord(tableMeta, keyState, record)
	if err != nil {
		return nil, err
	}
	st.unknown, err = readFields(msg, func(f field) bool {
		switch f.num {
		case 1:
			st.sequence = f.number
		case 2:
			st.users = f.number
		case 3:
			st.keys = f.number
		default:
			return false
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	tx.state = st
	return st, nil
}

func (st *storeState) encode() []byte {
	var m message
	m.number(1, st.sequence)
	m.number(2, st.users)
	m.number(3, st.keys)
	return sealRecord(tableMeta, keyState, append(m, st.unknown...))
}

// finish ends a transaction that changed something with the new verifiers that wait for a write, and the new state. It
// refuses one in which an operation failed half-way.
func (tx *Tx) finish() error {
	if tx.half != nil {
		return tx.half
	}
	if !tx.dirty {
		return nil
	}
	if err := tx.applyRehashes(); err != nil {
		return err
	}
	return tx.etx.Put(tableMeta, keyState, tx.state.encode())
}

// wholeSince is deferred by every operation that writes more than once, with the count of writes before it. If the operation
// fails when it has begun to write, so does the transaction, even if its function goes on.
func (tx *Tx) wholeSince(writes int, err *error) {
	if *err != nil && tx.writes != writes {
		tx.half = firstError(tx.half, *err)
	}
}

func (tx *Tx) put(table string, key, value []byte) error {
	tx.writes++
	return tx.etx.Put(table, key, value)
}

func (tx *Tx) delete(table string, key []byte) error {
	tx.writes++
	return tx.etx.Delete(table, key)
}

// stampNow is the stamp of a field that is written with the change sequence.
func (tx *Tx) stampNow(sequence uint64) stamp {
	return stamp{counter: sequence, replica: tx.store.domain.replica}
}

// getUser returns a user's record, or nil if there never was one; a tombstone counts as one.
func (tx *Tx) getUser(id uuid.UUID) (*userRecord, error) {
	record, err := tx.etx.Get(tableUsers, id[:])
	if err != nil || record == nil {
		return nil, err
	}
	u, err := decodeUser(id, record)
	return &u, err
}

// getKey returns a key's record, or nil if there never was one; a tombstone counts as one.
func (tx *Tx) getKey(id uuid.UUID) (*keyRecord, error) {
	record, err := tx.etx.Get(tableKeys, id[:])
	if err != nil || record == nil {
		return nil, err
	}
	k, err := decodeKey(id, record)
	return &k, err
}

// putUser writes a changed user under the next sequence. set, if not nil, is called with the stamp of the change.
func (tx *Tx) putUser(u *userRecord, set func(stamp)) error {
	tx.writes++ // to the change index
	sequence, err := tx.changed(userKind, u.id, u.sequence)
	if err != nil {
		return err
	}
	u.sequence = sequence
	if set != nil {
		set(tx.stampNow(sequence))
	}
	return tx.etx.Put(tableUsers, u.id[:], u.encode())
}

// putKey writes a changed key under the next sequence. set, if not nil, is called with the stamp of the change.
func (tx *Tx) putKey(k *keyRecord, set func(stamp)) error {
	tx.writes++ // to the change index
	sequence, err := tx.changed(keyKind, k.id, k.sequence)
	if err != nil {
		return err
	}
	k.sequence = sequence
	if set != nil {
		set(tx.stampNow(sequence))
	}
	return tx.etx.Put(tableKeys, k.id[:], k.encode())
}

// touch marks a key whose cached login must not outlive the transaction.
func (tx *Tx) touch(key uuid.UUID) { tx.touched.keys = append(tx.touched.keys, key) }

// touchUser marks a user whose keys' cached logins must not outlive the transaction.
func (tx *Tx) touchUser(user uuid.UUID) { tx.touched.users = append(tx.touched.users, user) }

// errMissing is for a record that an index speaks of and that is not there.
func errMissing(kind string, id uuid.UUID) error {
	return fmt.Errorf("%w: %s %s is in an index, but has no record", ErrCorrupt, kind, id)
}
