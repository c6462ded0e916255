package merge

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Forget takes a record or a tombstone out of the store, and a user with its keys. Forgetting is
// not deleting: it leaves no tombstone, so the record can come back.
//
// Errors: [ErrReserved] for a key with reserved scopes; [ErrInvalid] for a table whose records do
// not travel; an error of t.
func (t *Tables) Forget(table string, key []byte) error {
	t.DrawWriter()
	id, _ := uuid.FromBytes(key)
	switch table {
	case record.TableUsers:
		return t.forgetUser(id)
	case record.TableKeys:
		k, err := get(t, table, id, record.DecodeKey)
		if k != nil && err == nil && IsReserved(k.Scopes.Value) {
			return ErrReserved
		}
		return t.forgetKey(id)
	case record.TableGroups:
		return t.forgetGroup(key)
	case record.TableDeadUsers, record.TableDeadKeys:
		return t.forgetEntry(table, key)
	}
	return fmt.Errorf("%w: the records of table %q do not travel", ErrInvalid, table)
}

// forgetUser takes the record of a user out of the store, and the user's keys.
func (t *Tables) forgetUser(id uuid.UUID) error {
	ours, err := get(t, record.TableUsers, id, record.DecodeUser)
	if err != nil && !errors.Is(err, record.ErrDamaged) {
		return err
	}
	t.DropCached(cache.Stale{Users: []uuid.UUID{id}})
	for e, err := range t.Scan(record.TableNames, id[:], append(id[:], 0xff)) {
		if err != nil {
			return err
		}
		if _, key, err := record.SplitNameKey(e.Key); err == nil {
			k, err := get(t, record.TableKeys, key, record.DecodeKey)
			if errors.Is(err, record.ErrDamaged) || k != nil && k.Owner == id {
				err = t.forgetKey(key)
			}
			if err != nil {
				return err
			}
		}
		if err := t.Delete(record.TableNames, e.Key); err != nil { // which can be wrong
			return err
		}
	}
	if ours != nil {
		if err := t.changeIndex(id, ours.Index(), nil); err != nil {
			return err
		}
	}
	if err := t.forgetAside(record.TableDeadUsers, id[:]); err != nil {
		return err
	}
	return t.forgetEntry(record.TableUsers, id[:])
}

// forgetKey takes the record of a key out of the store.
func (t *Tables) forgetKey(id uuid.UUID) error {
	ours, err := get(t, record.TableKeys, id, record.DecodeKey)
	if err != nil && !errors.Is(err, record.ErrDamaged) {
		return err
	}
	t.DropCached(cache.Stale{Keys: []uuid.UUID{id}})
	if ours != nil {
		if err := t.EndVerifiers(ours, record.Verifiers{}); err != nil {
			return err
		}
		if err := t.changeIndex(id, ours.Index(), nil); err != nil {
			return err
		}
	}
	if err := t.forgetAside(record.TableDeadKeys, id[:]); err != nil {
		return err
	}
	return t.forgetEntry(record.TableKeys, id[:])
}

// forgetGroup takes the record of a group out of the store.
func (t *Tables) forgetGroup(name []byte) error {
	t.DropCached(cache.Stale{Groups: []string{string(name)}})
	return t.forgetEntry(record.TableGroups, name)
}

// forgetEntry deletes an entry of a table, and the record of a later version that is aside for it.
func (t *Tables) forgetEntry(table string, key []byte) error {
	if err := t.forgetAside(table, key); err != nil {
		return err
	}
	if value, err := t.Get(table, key); err != nil || value == nil {
		return err
	}
	return t.DeleteForgotten(table, key)
}

// forgetAside deletes the record of a later version that is aside.
func (t *Tables) forgetAside(table string, key []byte) error {
	if n, err := t.Count(record.TableLater); err != nil || n == 0 {
		return err
	}
	return t.Delete(record.TableLater, LaterKey(table, key))
}

// Replace makes the store's version of a record the one of a copy, whatever merging would say: a
// record that is deleted or disabled here is so no longer, unless the copy says so. Keys of a user
// stay as they are. If Sealed is empty, the store forgets the record and the tombstone.
//
// Errors: [ErrInvalid], [ErrReserved] or [record.ErrDamaged]; an error of t. Something may have
// been written then.
func (t *Tables) Replace(c record.Copy) error {
	t.DrawWriter()
	live, dead := c.Table, ""
	switch c.Table {
	case record.TableUsers, record.TableDeadUsers:
		live, dead = record.TableUsers, record.TableDeadUsers
	case record.TableKeys, record.TableDeadKeys:
		live, dead = record.TableKeys, record.TableDeadKeys
	case record.TableGroups:
	default:
		return fmt.Errorf("%w: the records of table %q do not travel", ErrInvalid, c.Table)
	}
	if dead != "" {
		if err := t.Forget(dead, c.Key); err != nil {
			return err
		}
	}
	switch {
	case len(c.Sealed) == 0:
		return t.Forget(live, c.Key)
	case c.IsLater():
		if err := t.Forget(live, c.Key); err != nil {
			return err
		}
		return t.setAside(c)
	}
	if err := t.forgetAside(live, c.Key); err != nil {
		return err
	}
	id, _ := uuid.FromBytes(c.Key)
	switch c.Table {
	case record.TableUsers:
		return t.replaceUser(id, c)
	case record.TableKeys:
		return t.replaceKey(id, c)
	case record.TableGroups:
		if _, err := record.UnsealGroup(string(c.Key), c.Sealed); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if err := checkGroup(string(c.Key)); err != nil {
			return err
		}
		t.DropCached(cache.Stale{Groups: []string{string(c.Key)}})
		return t.replaceEntry(c)
	}
	for more := true; more; { // a tombstone, with the keys of a user
		var err error
		if more, err = t.Record(c); err != nil {
			return err
		}
	}
	return t.replaceEntry(c)
}

func (t *Tables) replaceUser(id uuid.UUID, c record.Copy) error {
	theirs, err := unseal(c, record.DecodeUser)
	if err == nil {
		err = checkUser(theirs)
	}
	if err != nil {
		return err
	}
	ours, err := get(t, c.Table, id, record.DecodeUser)
	if err != nil && !errors.Is(err, record.ErrDamaged) {
		return err
	}
	var was []record.IndexEntry
	if ours != nil {
		was = ours.Index()
	}
	t.DropCached(cache.Stale{Users: []uuid.UUID{id}})
	if err := t.changeIndex(id, was, theirs.Index()); err != nil {
		return err
	}
	return t.replaceEntry(c)
}

func (t *Tables) replaceKey(id uuid.UUID, c record.Copy) error {
	theirs, err := unseal(c, record.DecodeKey)
	if err == nil {
		err = t.checkKey(theirs)
	}
	if err != nil {
		return err
	}
	ours, err := get(t, c.Table, id, record.DecodeKey)
	if err != nil && !errors.Is(err, record.ErrDamaged) {
		return err
	}
	var was []record.IndexEntry
	if ours != nil {
		if IsReserved(ours.Scopes.Value) {
			return ErrReserved
		}
		was = ours.Index()
		if err := t.EndVerifiers(ours, unchanged(ours.Verifiers, theirs.Verifiers)); err != nil {
			return err
		}
	}
	t.DropCached(cache.Stale{Keys: []uuid.UUID{id}})
	if err := t.changeIndex(id, was, theirs.Index()); err != nil {
		return err
	}
	return t.replaceEntry(c)
}

// replaceEntry writes the record of a copy as it is.
func (t *Tables) replaceEntry(c record.Copy) error {
	if had, err := t.Get(c.Table, c.Key); err != nil || bytes.Equal(had, c.Sealed) {
		return err
	}
	return t.Put(c.Table, c.Key, c.Sealed)
}

// DropTombstones deletes the tombstones that a store without replicas does not need, among the next
// entries behind a key, at most some number: those of keys whose token is nowhere else, and of
// users whose ID is random. It returns the last key that it has looked at, or nil at the end.
func (t *Tables) DropTombstones(table string, after []byte, most int) (last []byte, err error) {
	looked := 0
	for e, err := range t.Scan(table, append(bytes.Clone(after), 0), nil) {
		if err != nil {
			return nil, err
		}
		if looked == most {
			return last, nil
		}
		looked++
		last = e.Key
		id, err := record.DecodeID(e.Key)
		if err != nil {
			continue
		}
		if table == record.TableDeadKeys {
			d, err := record.Unseal(table, e.Key, e.Value, record.DecodeKeyTombstone)
			if err != nil || d.Foreign {
				continue
			}
		}
		if id.Version() != 7 {
			continue // derived, so it may come again
		}
		if err := t.Delete(table, e.Key); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
