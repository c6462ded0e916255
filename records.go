package latchkey

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// The tables of a store, which package record describes.
const (
	tableUsers      = record.TableUsers
	tableKeys       = record.TableKeys
	tableGroups     = record.TableGroups
	tableDeadUsers  = record.TableDeadUsers
	tableDeadKeys   = record.TableDeadKeys
	tableMeta       = record.TableMeta
	tableIdentities = record.TableIdentities
	tableNames      = record.TableNames
	tableMembers    = record.TableMembers
	tableHandles    = record.TableHandles
	tableHashes     = record.TableHashes
	tableLastUse    = record.TableLastUse
	tableLater      = record.TableLater
	tableReplica    = record.TableReplica
	tableData       = record.TableData
)

var (
	trackedTables = record.TrackedTables()
	allTables     = record.Tables()
)

// openRecord returns the message of a record.
//
// It returns ErrCorrupt or ErrNewerFormat.
func openRecord(table string, key, sealed []byte) ([]byte, error) {
	message, err := record.Open(table, key, sealed)
	return message, recordError(err)
}

// recordError returns an error of package record as callers know it.
func recordError(err error) error {
	switch {
	case errors.Is(err, record.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case errors.Is(err, record.ErrNewer):
		return fmt.Errorf("%w: %w", ErrNewerFormat, err)
	}
	return err
}

// getRecord returns the record that a table has under an ID, or nil if there is none.
func getRecord[T any](tx *Tx, table string, id uuid.UUID, decode func(uuid.UUID, []byte) (T, error)) (*T, error) {
	sealed, err := tx.etx.Get(table, id[:])
	if err != nil || sealed == nil {
		return nil, err
	}
	r, err := record.Unseal(table, id[:], sealed, decode)
	return r, recordError(err)
}

// getUser returns the record of a user, or nil if there is no such user now.
func (tx *Tx) getUser(id uuid.UUID) (*record.User, error) {
	return getRecord(tx, tableUsers, id, record.DecodeUser)
}

// getKey returns the record of a key as this process knows it, or nil if there is no such key now.
// A verifier is retired there if its end could not be written yet.
func (tx *Tx) getKey(id uuid.UUID) (*record.Key, error) {
	k, err := getRecord(tx, tableKeys, id, record.DecodeKey)
	if t, unended := tx.store.unended.Load(id); unended && k != nil {
		k.Verifiers = k.Verifiers.Retire(t.(unendedToken).old)
	}
	return k, err
}

// isUsed reports whether an ID has a record in a table, or a tombstone in another.
func (tx *Tx) isUsed(table, dead string, id uuid.UUID) (bool, error) {
	used, err := tx.has(table, id[:])
	if err != nil || used {
		return used, err
	}
	return tx.has(dead, id[:])
}

// has reports whether a table has an entry.
func (tx *Tx) has(table string, key []byte) (bool, error) {
	value, err := tx.etx.Get(table, key)
	return value != nil, err
}

// deleteEntries deletes the entries of indexes that are made from the record with an ID.
func (tx *Tx) deleteEntries(id uuid.UUID, entries []record.IndexEntry) error {
	for _, e := range entries {
		if err := tx.tables().Remove(id, e); err != nil {
			return err
		}
	}
	return nil
}

// putUser writes the record of a user.
func (tx *Tx) putUser(u *record.User) error { return tx.putRecord(tableUsers, u.ID[:], u.Encode()) }

// putKey writes the record of a key.
func (tx *Tx) putKey(k *record.Key) error { return tx.putRecord(tableKeys, k.ID[:], k.Encode()) }

// putRecord writes a record, which must not be larger than every engine takes.
func (tx *Tx) putRecord(table string, key, message []byte) error {
	sealed := record.Seal(table, key, message)
	if len(sealed) > record.MaxSize {
		return fmt.Errorf("the record %s/%x would have %d bytes; the most is %d", table, key, len(sealed), record.MaxSize)
	}
	return tx.put(table, key, sealed)
}

// changeUser changes the record of a user by change, which gets the stamp for the fields that it
// sets. change reports whether it has changed anything. The cache forgets the keys of the user
// before the transaction commits.
func (tx *Tx) changeUser(id uuid.UUID, change func(u *record.User, at record.Stamp) (changed bool, err error)) (u *record.User, err error) {
	defer tx.wholeSince(tx.writes, &err)
	if u, err = tx.liveUser(id); err != nil {
		return nil, err
	}
	if changed, err := change(u, u.Next(tx.store.ReplicaID())); err != nil || !changed {
		return u, err
	}
	tx.forgetUser(id)
	return u, tx.putUser(u)
}

// changeKey changes the record of owner's key by change, which gets the stamp for the fields that
// it sets. change reports whether it has changed anything. The cache forgets the key before the
// transaction commits.
func (tx *Tx) changeKey(owner, id uuid.UUID, change func(k *record.Key, at record.Stamp) (changed bool, err error)) (err error) {
	defer tx.wholeSince(tx.writes, &err)
	k, err := tx.liveKey(owner, id)
	if err != nil {
		return err
	}
	if changed, err := change(k, k.Next(tx.store.ReplicaID())); err != nil || !changed {
		return err
	}
	tx.forgetKey(id)
	return tx.putKey(k)
}

// setRegister gives a field of a record a value, unless the field has the same one already, and
// reports whether the field has changed.
func setRegister[T any](r *record.Register[T], value T, same bool, at record.Stamp) (changed bool) {
	if !same {
		*r = r.Set(value, at)
	}
	return !same
}

// setDisabled disables or enables a record by its flag, and reports whether the flag has changed.
// In a store that has or had replicas, disabling a disabled record changes the flag, because
// another replica may be enabling the record just now.
func (tx *Tx) setDisabled(f *record.Flag, disable bool) (changed bool) {
	shared := tx.isShared()
	switch {
	case disable && (shared || !f.IsDisabled()):
		*f = f.Disable(*tx.store.writer.Load())
	case disable || !f.IsDisabled():
		return false
	case shared:
		*f = f.Enable()
	default:
		*f = f.EnableAlone()
		tx.store.drawWriter()
	}
	return true
}

// drawWriter gives the store a new name for its disablings. It does no harm if the transaction that
// called for it fails.
func (s *Store) drawWriter() {
	w := record.NewWriter()
	s.writer.Store(&w)
}

// errMissing returns the error for a record that is in an index but does not exist.
func errMissing(kind string, id uuid.UUID) error {
	return fmt.Errorf("%w: %s %s is in an index, but has no record", ErrCorrupt, kind, id)
}
