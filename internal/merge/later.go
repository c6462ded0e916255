package merge

import (
	"bytes"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A build cannot merge a record of a later version. It keeps the record aside, in the table later,
// and refuses the logins that depend on it. The store's own version of the record stays as it is,
// with all that was changed here, so that nothing is lost when a later build merges both.

// LaterKey returns the key in the table later of a record of another table.
func LaterKey(table string, key []byte) []byte {
	return append(append([]byte(table), 0), key...)
}

// KnownLater returns copies of the records aside that are of no later version any more, because
// this build is a later one.
func (t *Tables) KnownLater(domain uuid.UUID) (copies []record.Copy, err error) {
	for e, err := range t.Scan(record.TableLater, nil, nil) {
		if err != nil {
			return nil, err
		}
		table, key, _ := bytes.Cut(e.Key, []byte{0})
		c := record.Copy{Domain: domain, Table: string(table), Key: key, Sealed: e.Value}
		if !c.IsLater() {
			copies = append(copies, c)
		}
	}
	return copies, nil
}

// setAside keeps a record of a later version. A former one under the same key goes.
func (t *Tables) setAside(c record.Copy) error {
	if c.Table == record.TableLastUse {
		return nil // which would refuse a login because of its own use
	}
	key := LaterKey(c.Table, c.Key)
	had, err := t.Get(record.TableLater, key)
	if err != nil || bytes.Equal(had, c.Sealed) {
		return err
	}
	id, _ := uuid.FromBytes(c.Key)
	switch c.Table {
	case record.TableUsers, record.TableDeadUsers:
		t.DropCached(cache.Stale{Users: []uuid.UUID{id}})
	case record.TableKeys, record.TableDeadKeys:
		t.DropCached(cache.Stale{Keys: []uuid.UUID{id}})
	case record.TableGroups:
		t.DropCached(cache.Stale{Groups: []string{string(c.Key)}})
	}
	return t.Put(record.TableLater, key, c.Sealed)
}

// dropAside deletes the record that is aside if it is c, which is of no later version any more.
func (t *Tables) dropAside(c record.Copy) error {
	n, err := t.Count(record.TableLater)
	if err != nil || n == 0 {
		return err
	}
	key := LaterKey(c.Table, c.Key)
	aside, err := t.Get(record.TableLater, key)
	if err != nil || !bytes.Equal(aside, c.Sealed) {
		return err
	}
	return t.Delete(record.TableLater, key)
}

// IsAside reports whether a record of a later version is aside on which the logins with a key
// depend: one of the key, of its owner or of its group.
func (t *Tables) IsAside(key, owner uuid.UUID, group string) (bool, error) {
	if n, err := t.Count(record.TableLater); err != nil || n == 0 {
		return false, err
	}
	for _, at := range []struct {
		table string
		key   []byte
	}{
		{record.TableKeys, key[:]}, {record.TableDeadKeys, key[:]},
		{record.TableUsers, owner[:]}, {record.TableDeadUsers, owner[:]},
		{record.TableGroups, []byte(group)},
	} {
		value, err := t.Get(record.TableLater, LaterKey(at.table, at.key))
		if err != nil || value != nil {
			return value != nil, err
		}
	}
	return false, nil
}
