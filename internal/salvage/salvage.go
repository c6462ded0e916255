// Package salvage reads a damaged file of a store page by page, and decides what of it was in the
// last commit.
//
//   - take.go takes the entries of the pages.
//   - reconcile.go makes users and keys of the entries, as a store can have them.
//   - write.go makes the file of a new store.
package salvage

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Found is what [Read] has found. A new store can have all of it.
type Found struct {
	Counts  Counts
	Meta    map[string][]byte // sealed records of the table meta, by their keys
	Replica record.Replica    // a new one
	Clock   record.Clock      // the latest version, or the zero value
	Users   map[uuid.UUID]*record.User
	Keys    map[uuid.UUID]*record.Key
	// Records are the records of tracked tables, in the order of their last changes. The last uses
	// of keys follow, then records of later versions, what replication keeps, and the records of
	// applications.
	Records []Record
}

// Counts has a number for each field of SalvageReport in the root package, which says what the
// fields mean.
type Counts struct {
	Users, Keys, Data, BadPages, BadRecords, Uncertain, Orphaned int
}

// A Record is an entry for a table of the new store.
type Record struct {
	Table        string
	Key, Message []byte
	Sealed       []byte // in the place of Message, unless it is nil
}

// Identities has the rules for the identities of users.
type Identities struct {
	// Valid reports whether a user can have an identity.
	Valid func(provider, subject string) bool
	// Lost is the provider of the identity that a user gets whose identities are lost.
	Lost string
}

// Read reads the damaged file f.
//
// Errors: ctx's error, or the operating system's error.
func Read(ctx context.Context, f *os.File, rules Identities) (Found, error) {
	s := newSalvage(rules)
	if err := s.read(ctx, f); err != nil {
		return s.Found, err
	}
	s.Meta[record.MetaTags] = record.Seal(record.TableMeta, []byte(record.MetaTags), s.tags.Encode())
	// Some of the last writes may be lost. New writes by the same replica would get the stamps of
	// the lost ones. Whoever has them is another store of the domain.
	s.Replica = record.Replica{ID: uuid.New(), Shared: true}
	s.decode()
	s.reconcile()
	s.encode()
	return s.Found, nil
}

// salvage is what a run has found so far.
type salvage struct {
	Found
	rules Identities
	// candidates has a function for each commit that may be the last. It reports whether a page is
	// of that commit.
	candidates []func(id uint64) bool

	tags record.TagSecrets // of all versions of their record

	found      map[entryKey]version
	changes    map[entryKey]boltpage.Place   // the last change of each entry in the change index
	identities map[uuid.UUID]record.Identity // the identities in the index, by user
	data       []map[entryKey][]byte         // messages of data and replica, for each candidate
	aside      map[string][]byte             // records of later versions, as they are kept
	uses       map[string]uint32             // the latest version of each last use

	groups map[string]*record.Group
	writer record.Writer // of disablings
}

func newSalvage(rules Identities) *salvage {
	return &salvage{
		Found: Found{
			Meta: map[string][]byte{}, Users: map[uuid.UUID]*record.User{}, Keys: map[uuid.UUID]*record.Key{},
		},
		rules:      rules,
		found:      map[entryKey]version{},
		changes:    map[entryKey]boltpage.Place{},
		identities: map[uuid.UUID]record.Identity{},
		aside:      map[string][]byte{},
		groups:     map[string]*record.Group{},
		uses:       map[string]uint32{},
		writer:     record.NewWriter(),
	}
}

// entryKey is the key of an entry of a tracked table.
type entryKey struct{ table, key string }

func (k entryKey) compare(other entryKey) int {
	return cmp.Or(cmp.Compare(k.table, other.table), cmp.Compare(k.key, other.key))
}

func keyOf(table string, id uuid.UUID) entryKey { return entryKey{table, string(id[:])} }

// version is the latest version of a record that was found. An uncertain one may be from before the
// last commit.
type version struct {
	message   []byte
	place     boltpage.Place // of its last change
	uncertain bool
}

func (s *salvage) read(ctx context.Context, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	pages := boltpage.NewPages(f, uint64((info.Size()+boltpage.PageSize-1)/boltpage.PageSize))
	live, sure, candidates := pages.Live()
	s.candidates = candidates
	for range candidates {
		s.data = append(s.data, map[entryKey][]byte{})
	}
	for id := uint64(2); id < pages.Count(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, size, ok := pages.Leaf(id)
		stale := sure && !live(id)
		if !ok && !stale {
			s.Counts.BadPages++
		}
		lost := boltpage.EachEntry(page, func(k, v []byte) {
			s.take(id, k, v, stale, !sure && !live(id))
		})
		if !stale {
			s.Counts.BadRecords += lost
		}
		id += size
	}
	return nil
}

// encode lists the records as they are now, and counts them.
func (s *salvage) encode() {
	now := map[entryKey][]byte{}
	for id, u := range s.Users {
		now[keyOf(record.TableUsers, id)] = u.Encode()
	}
	for id, k := range s.Keys {
		now[keyOf(record.TableKeys, id)] = k.Encode()
	}
	for name, g := range s.groups {
		now[entryKey{record.TableGroups, name}] = g.Encode()
	}
	for at, found := range s.found {
		if at.table == record.TableDeadUsers || at.table == record.TableDeadKeys {
			now[at] = found.message
		}
	}
	inOrder := slices.SortedFunc(maps.Keys(now), func(a, b entryKey) int {
		return cmp.Or(cmp.Compare(s.found[a].place, s.found[b].place), a.compare(b))
	})
	for _, at := range inOrder {
		s.Records = append(s.Records, Record{Table: at.table, Key: []byte(at.key), Message: now[at]})
	}
	for _, id := range slices.Sorted(maps.Keys(s.uses)) {
		if s.Keys[uuid.UUID([]byte(id[:16]))] != nil {
			s.Records = append(s.Records, Record{Table: record.TableLastUse, Key: []byte(id), Message: record.EncodeLastUse(s.uses[id])})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.aside)) {
		s.Records = append(s.Records, Record{Table: record.TableLater, Key: []byte(k), Sealed: s.aside[k]})
	}
	data := s.certainData()
	for _, at := range slices.SortedFunc(maps.Keys(data), entryKey.compare) {
		r := Record{Table: at.table, Key: []byte(at.key), Message: data[at]}
		if at.table == record.TableReplica { // the commits of the new file have other numbers
			r.Sealed, _ = record.Renumbered(r.Key, record.Seal(r.Table, r.Key, r.Message))
			if r.Sealed == nil {
				continue
			}
		}
		s.Records = append(s.Records, r)
		if at.table == record.TableData {
			s.Counts.Data++
		}
	}
	s.Counts.Users, s.Counts.Keys = len(s.Users), len(s.Keys)
}

// certainData returns the records that do not merge and are the same in all commits that may be the
// last.
func (s *salvage) certainData() map[entryKey][]byte {
	if len(s.data) == 0 {
		return nil
	}
	data := s.data[0]
	for _, other := range s.data[1:] {
		maps.DeleteFunc(data, func(k entryKey, v []byte) bool {
			message, has := other[k]
			return !has || !bytes.Equal(message, v)
		})
	}
	return data
}
