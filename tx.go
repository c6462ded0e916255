package latchkey

import (
	"fmt"

	"github.com/google/uuid"
)

// A Tx is a transaction that [Store.Update] or [Store.View] hands to its function. It has the operations of [Store] on
// users and keys, all in one transaction; in a View those that change something return [ErrReadOnly]. It must not be
// used by two goroutines at once. After its function has returned, its methods return [ErrClosed].
type Tx struct {
	store   *Store
	etx     EngineTx
	replica uuid.UUID // of the store, for stamps

	state    *storeState // nil until it is read
	dirty    bool        // finish must write the state
	writes   int         // how many puts and deletes there were
	halfDone error       // why an operation failed that had begun to write

	keyCounts map[uuid.UUID]int // how many keys an owner has, of the owners whose keys were counted
	stale     staleLogins
}

// effects are what a transaction asks of its store, beyond the engine.
type effects struct {
	stale    staleLogins
	rehashes []rehash // verifiers that need not wait for a write any more
	rehashed uint64   // how many of these the transaction wrote
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

// finish ends a transaction that changed something: it writes the new verifiers that wait for a
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

// wholeSince is deferred by every operation that writes more than once, with the number of writes
// before it. If the operation fails after it has begun to write, the transaction fails too, even if
// its function goes on.
func (tx *Tx) wholeSince(writes int, err *error) {
	if *err != nil && tx.writes != writes && tx.halfDone == nil {
		tx.halfDone = *err
	}
}

// put and delete are the only way to write to the store's own tables.
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

// forgetKey has the cache forget the key before the transaction commits.
func (tx *Tx) forgetKey(id uuid.UUID) { tx.stale.keys = append(tx.stale.keys, id) }

// forgetUser has the cache forget all keys of the user before the transaction commits.
func (tx *Tx) forgetUser(id uuid.UUID) { tx.stale.users = append(tx.stale.users, id) }

// errMissing is for a record that an index speaks of and that is not there.
func errMissing(kind string, id uuid.UUID) error {
	return fmt.Errorf("%w: %s %s is in an index, but has no record", ErrCorrupt, kind, id)
}
