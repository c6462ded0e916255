package latchkey

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A Tx is a transaction that [Store.Update] or [Store.View] hands to its function. It has the
// operations of [Store] on users and keys, all in one transaction. In a View, operations that
// change something return [ErrReadOnly]. A Tx must not be used by two goroutines at once. After the
// function has returned, its methods return [ErrClosed].
type Tx struct {
	store   *Store
	etx     EngineTx
	replica uuid.UUID // the store's ID, for stamps

	state    *storeState // nil until it was read
	dirty    bool        // finish must write the state
	writes   int         // the number of puts and deletes
	halfDone error       // the error of an operation that had begun to write

	// keyCounts has the number of keys of each owner whose keys were counted.
	keyCounts map[uuid.UUID]*keyCount
	began     time.Time // see now
	stale     staleLogins
}

// effects are what the store has to do when a transaction commits, besides the commit.
type effects struct {
	stale    staleLogins
	rehashes []rehash // no longer waiting for a write
	rehashed uint64   // how many of rehashes were written
}

// Format keeps stored verifiers out of anything that prints a Tx.
func (tx *Tx) Format(f fmt.State, _ rune) { fmt.Fprint(f, "latchkey.Tx") }

// storeState is the record that every write changes: the sequence, and counts that would be
// expensive to make.
type storeState struct {
	sequence uint64
	users    uint64
	keys     uint64
	unknown  []byte
}

var metaState = []byte("state")

func (tx *Tx) readState() (*storeState, error) {
	if tx.state != nil {
		return tx.state, nil
	}
	record, err := tx.etx.Get(tableMeta, metaState)
	if err != nil {
		return nil, err
	}
	msg, err := openRecord(tableMeta, metaState, record)
	if err != nil {
		return nil, err
	}
	st := &storeState{}
	if err := st.decode(msg); err != nil {
		return nil, err
	}
	tx.state = st
	return st, nil
}

func (st *storeState) decode(msg []byte) error {
	for f, err := range fields(msg) {
		if err != nil {
			return err
		}
		switch f.num {
		case 1:
			st.sequence = f.number
		case 2:
			st.users = f.number
		case 3:
			st.keys = f.number
		default:
			st.unknown = append(st.unknown, f.raw...)
		}
	}
	return nil
}

func (st *storeState) encode() []byte {
	var m message
	m.number(1, st.sequence)
	m.number(2, st.users)
	m.number(3, st.keys)
	return sealRecord(tableMeta, metaState, append(m, st.unknown...))
}

// finish ends a transaction that changed something. It writes the new verifiers that wait for a
// write, and the state. It returns halfDone if an operation failed half-way.
func (tx *Tx) finish() (e effects, err error) {
	if tx.halfDone != nil {
		return effects{}, tx.halfDone
	}
	e.stale = tx.stale
	if !tx.dirty {
		return e, nil
	}
	if e.rehashes, e.rehashed, err = tx.applyRehashes(); err != nil {
		return effects{}, err
	}
	return e, tx.putState()
}

// wholeSince is deferred by every operation that writes more than once. writes is the number of
// writes before the operation. If the operation fails after it has begun to write, wholeSince makes
// the transaction fail, even if its function goes on.
func (tx *Tx) wholeSince(writes int, err *error) {
	if *err != nil && tx.writes != writes && tx.halfDone == nil {
		tx.halfDone = *err
	}
}

// put writes an entry of the store's own tables. Only put and delete write to these.
func (tx *Tx) put(table string, key, value []byte) error {
	tx.writes++
	tx.dirty = true
	return tx.etx.Put(table, key, value)
}

func (tx *Tx) delete(table string, key []byte) error {
	tx.writes++
	tx.dirty = true
	return tx.etx.Delete(table, key)
}

// putUser writes the record of a user. If the record has changed, nextChange comes first.
func (tx *Tx) putUser(u *userRecord) error { return tx.put(tableUsers, u.id[:], u.encode()) }

// putKey writes the record of a key. If the record has changed, nextChange comes first.
func (tx *Tx) putKey(k *keyRecord) error { return tx.put(tableKeys, k.id[:], k.encode()) }

// putState writes the state.
func (tx *Tx) putState() error {
	st, err := tx.readState()
	if err != nil {
		return err
	}
	return tx.put(tableMeta, metaState, st.encode())
}

// now returns the time by which the transaction judges expiry dates. It is the same for all of the
// transaction, so that no key expires between the operations.
func (tx *Tx) now() time.Time {
	if tx.began.IsZero() {
		tx.began = tx.store.now()
	}
	return tx.began
}

// getUser returns the record of a user, or nil if there never was such a user. A tombstone is a
// record.
func (tx *Tx) getUser(id uuid.UUID) (*userRecord, error) {
	record, err := tx.etx.Get(tableUsers, id[:])
	if err != nil || record == nil {
		return nil, err
	}
	u, err := decodeUser(id, record)
	return &u, err
}

// getKey returns the record of a key, or nil if there never was such a key. A tombstone is a
// record.
func (tx *Tx) getKey(id uuid.UUID) (*keyRecord, error) {
	record, err := tx.etx.Get(tableKeys, id[:])
	if err != nil || record == nil {
		return nil, err
	}
	k, err := decodeKey(id, record)
	return &k, err
}

// forgetKey makes the cache forget the key before the transaction commits.
func (tx *Tx) forgetKey(id uuid.UUID) { tx.stale.keys = append(tx.stale.keys, id) }

// forgetUser makes the cache forget all keys of the user before the transaction commits.
func (tx *Tx) forgetUser(id uuid.UUID) { tx.stale.users = append(tx.stale.users, id) }

// errMissing returns the error for a record that is in an index but does not exist.
func errMissing(kind string, id uuid.UUID) error {
	return fmt.Errorf("%w: %s %s is in an index, but has no record", ErrCorrupt, kind, id)
}
