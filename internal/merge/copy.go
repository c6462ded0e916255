package merge

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// The first copy for a store that has nothing of the domain yet takes the entries of tables as they
// are, so that they can be written in the order of their keys, many at once.
//
// A record may change while the copy is under way, so that the copy has an older version of it than
// of its entries in the indexes. The receiver therefore takes only entries of indexes that are
// those of its records, and then the changes since the copy began, with [Tables.Reindex].

// CopiedTables returns the tables of a first copy in the order in which they must be copied. What
// revokes comes before what it revokes, and indexes come after the records that they are made from.
func CopiedTables() []string {
	return []string{
		record.TableGroups, record.TableDeadUsers, record.TableDeadKeys, record.TableUsers, record.TableKeys,
		record.TableIdentities, record.TableNames, record.TableMembers, record.TableHandles,
	}
}

// A Page is a part of a table.
type Page struct {
	Entries []Entry
	// Last is the last key that was looked at. The next page comes after it. It is nil at the end
	// of the table.
	Last []byte
	// Damage is not nil if a damaged record was left out.
	Damage error
}

// maxLooked bounds the entries that one page looks at, when most of them are left out.
const maxLooked = 4096

// CopyTable returns the entries of a table of a first copy behind a key: those that travel and
// whose record the receiver gets, as gets reports. A page ends when it has a number of bytes.
func (t *Tables) CopyTable(table string, after []byte, most int, gets func(table string, key, sealed []byte) (bool, error)) (p Page, err error) {
	var from []byte
	if after != nil {
		from = append(bytes.Clone(after), 0)
	}
	size, looked := 0, 0
	for e, err := range t.Scan(table, from, nil) {
		if err != nil {
			return p, err
		}
		if size >= most || looked == maxLooked {
			return p, nil
		}
		p.Last = e.Key
		looked++
		e, goes, err := t.copied(table, e, gets)
		switch {
		case errors.Is(err, record.ErrDamaged):
			p.Damage = cmp.Or(p.Damage, err)
		case err != nil:
			return p, err
		case goes:
			p.Entries = append(p.Entries, e)
			size += len(e.Key) + len(e.Value)
		}
	}
	p.Last = nil
	return p, nil
}

// copied returns an entry as the receiver gets it, and reports whether the receiver gets it.
func (t *Tables) copied(table string, e Entry, gets func(table string, key, sealed []byte) (bool, error)) (Entry, bool, error) {
	goes := func(table string, key, sealed []byte) (bool, error) {
		if sealed == nil {
			return false, nil
		}
		if stays, err := staysHere(table, key, sealed); err != nil || stays {
			return false, err
		}
		return gets(table, key, sealed)
	}
	owner := func(table string, id uuid.UUID) (bool, error) {
		sealed, err := t.Get(table, id[:])
		if err != nil {
			return false, err
		}
		return goes(table, id[:], sealed)
	}
	var ok bool
	var err error
	switch table {
	case record.TableIdentities:
		holders := record.Holders(e.Value)
		e.Value = nil
		for _, id := range holders {
			ok, err := owner(record.TableUsers, id)
			if err != nil {
				return e, false, err
			}
			if ok {
				e.Value = append(e.Value, id[:]...)
			}
		}
		return e, e.Value != nil, nil
	case record.TableNames, record.TableMembers, record.TableHandles:
		id, of := indexed(table, e.Key)
		ok, err = owner(of, id)
		if err == nil && !ok && table == record.TableMembers {
			ok, err = owner(record.TableKeys, id)
		}
	default:
		ok, err = goes(table, e.Key, e.Value)
	}
	return e, ok, err
}

// indexed returns the ID at the end of an entry of an index, and the table that the record is in. A
// member is a user or a key.
func indexed(table string, key []byte) (id uuid.UUID, of string) {
	copy(id[:], key[max(len(key)-len(id), 0):])
	if table == record.TableMembers {
		return id, record.TableUsers
	}
	return id, record.TableKeys
}

// PutEntries writes entries of a first copy, which are in the order of their keys. The table must
// have nothing at the first key or behind it. Of an index, PutEntries writes only the entries that
// belong to a record that the store has.
//
// Errors: [ErrInvalid] if an entry cannot be one of the table or is out of order; an error of t.
// Something may have been written then.
func (t *Tables) PutEntries(table string, entries []Entry) error {
	if !slices.Contains(CopiedTables(), table) {
		return fmt.Errorf("%w: table %q is not copied", ErrInvalid, table)
	}
	if len(entries) == 0 {
		return nil
	}
	for e, err := range t.Scan(table, entries[0].Key, nil) {
		if err == nil {
			err = fmt.Errorf("%w: the store has the entry %s/%x already", ErrInvalid, table, e.Key)
		}
		return err
	}
	for i, e := range entries {
		if i > 0 && bytes.Compare(entries[i-1].Key, e.Key) >= 0 {
			return fmt.Errorf("%w: the entry %s/%x is out of order", ErrInvalid, table, e.Key)
		}
		if err := t.putEntry(table, e); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tables) putEntry(table string, e Entry) error {
	var err error
	switch table {
	case record.TableIdentities:
		var holders []byte
		for _, id := range record.Holders(e.Value) {
			ok, err := t.isIndexed(table, e.Key, record.TableUsers, id)
			if err != nil {
				return err
			}
			if ok {
				holders = record.WithHolder(holders, id)
			}
		}
		e.Value = holders
	case record.TableNames, record.TableMembers, record.TableHandles:
		id, of := indexed(table, e.Key)
		ok, err := t.isIndexed(table, e.Key, of, id)
		if err == nil && !ok && table == record.TableMembers {
			ok, err = t.isIndexed(table, e.Key, record.TableKeys, id)
		}
		if err != nil || !ok {
			return err
		}
		if h, _, err := record.SplitHandleKey(e.Key); err == nil && table == record.TableHandles {
			t.LearnHandle(h)
		}
		e.Value = []byte{}
	default:
		c := record.Copy{Table: table, Key: e.Key, Sealed: e.Value}
		if err = c.Check(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if c.IsLater() {
			return t.setAside(c)
		}
		if err := checkScopes(c); err != nil {
			return err
		}
	}
	if e.Value == nil {
		return nil
	}
	return t.PutCopied(table, e.Key, e.Value)
}

// checkScopes refuses a key with reserved scopes, which no store gives away. Most keys cannot have
// any, and are not read for that.
func checkScopes(c record.Copy) error {
	if c.Table != record.TableKeys || !bytes.Contains(c.Sealed, []byte(reserved)) {
		return nil
	}
	k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
	if err == nil && IsReserved(k.Scopes.Value) {
		err = fmt.Errorf("the key %x has reserved scopes", c.Key)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// isIndexed reports whether an index is to have an entry because of a record with an ID.
func (t *Tables) isIndexed(table string, key []byte, of string, id uuid.UUID) (bool, error) {
	sealed, err := t.Get(of, id[:])
	if err != nil || sealed == nil {
		return false, err
	}
	message, err := record.Open(of, id[:], sealed)
	if err != nil {
		return false, err
	}
	var index []record.IndexEntry
	switch {
	case table == record.TableNames: // most entries are of this index
		entry, err := record.DecodeNameEntry(id, message)
		return bytes.Equal(entry, key), err
	case of == record.TableUsers:
		u, err := record.DecodeUser(id, message)
		if err != nil {
			return false, err
		}
		index = u.Index()
	default:
		k, err := record.DecodeKey(id, message)
		if err != nil {
			return false, err
		}
		index = k.Index()
	}
	return hasEntry(index, record.IndexEntry{Table: table, Key: key}), nil
}
