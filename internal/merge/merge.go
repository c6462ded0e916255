// Package merge merges records of other replicas into the tables of a store, and keeps the indexes
// of the store in line with the records.
//
//   - read.go finds the records that other replicas get.
//   - run.go merges many records in several transactions.
//   - merge.go begins with a copy of a record, and has what the kinds of records have in common.
//   - user.go, key.go and group.go merge one kind each, with its tombstones.
//   - use.go has the last uses of tokens.
//   - index.go has the entries of indexes that several records can claim.
//   - later.go keeps records of later versions aside.
//   - forget.go takes records out of the store, and puts others in the place of what merging has
//     made.
//   - copy.go copies whole tables to a store that has nothing yet.
package merge

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// The reasons why a record is refused. Nothing was written then.
var (
	// ErrInvalid means that the record is damaged or made up, or contradicts what the store has.
	ErrInvalid = errors.New("record cannot be merged")
	// ErrReserved means that the record is of a key with reserved scopes, which does not travel.
	ErrReserved = errors.New("key has reserved scopes")
)

// Tables are the tables of a store, in a transaction that writes.
type Tables struct {
	// Get returns the value of a key, or nil if there is none.
	Get func(table string, key []byte) ([]byte, error)
	// Scan yields the entries with from ≤ key < to, in the order of their keys.
	Scan func(table string, from, to []byte) iter.Seq2[Entry, error]
	// Count returns the number of entries of a table.
	Count func(table string) (uint64, error)
	// Sequence returns the sequence of the last commit that the transaction sees.
	Sequence func() uint64
	// Changes yields the changes of tracked tables by commits after a sequence, and SequenceOf
	// returns the sequence of the last change of an entry, or 0.
	Changes    func(since uint64) iter.Seq2[Change, error]
	SequenceOf func(table string, key []byte) (uint64, error)
	// Put and Delete write.
	Put    func(table string, key, value []byte) error
	Delete func(table string, key []byte) error
	// PutCopied is Put without the hook, for entries of a first copy.
	PutCopied func(table string, key, value []byte) error
	// DeleteOnly is Delete without the hook, and without anything that the store writes beside a
	// change. So a transaction that calls nothing else only deletes.
	DeleteOnly func(table string, key []byte) error
	// DeleteForgotten deletes a record that the store forgets, which is no deletion for its users.
	DeleteForgotten func(table string, key []byte) error
	// DropCached makes the cache forget answers before the transaction commits.
	DropCached func(cache.Stale)
	// Now returns the store's time. No last use is later.
	Now func() time.Time
	// LearnHandle is called before the handle of a key is written.
	LearnHandle func(record.Handle)
	// CheckPHC returns an error unless a verifier without a handle can be used.
	CheckPHC func(phc string) error
	// Room returns how many writes there is room for, if the engine bounds transactions, and
	// Writes how many there were.
	Room, Writes func() int
	// DrawWriter gives the store a new name for its disablings. A record that the store forgets may
	// come back without what the store has counted in it, and no number may be counted twice.
	DrawWriter func()
	// BuryAtOnce is how many keys of a deleted user a transaction deletes. Each takes some ten
	// writes.
	BuryAtOnce int
	// Merging says that the transaction takes in what another store has, so that a hook that is
	// called in it hears of no change that was made here.
	Merging bool
	// Reindex says that a merged record may lack entries in the indexes, because the store has the
	// record from a first copy. A receiver sets it for the changes since a first copy began.
	Reindex bool
}

// An Entry is an entry of a table.
type Entry struct{ Key, Value []byte }

// Record merges a copy of a record. If more is set, the transaction has done a part, and Record
// has to be called again in another one.
//
// Errors: [ErrInvalid], [ErrReserved] or [record.ErrDamaged], and then nothing was written; an
// error of t.
func (t *Tables) Record(c record.Copy) (more bool, err error) {
	id, _ := uuid.FromBytes(c.Key)
	if c.Table != record.TableGroups && c.Table != record.TableLastUse && (id == uuid.Nil || id == uuid.Max) {
		return false, fmt.Errorf("%w: %s is the ID of no user and of no key", ErrInvalid, id)
	}
	if c.IsLater() {
		return false, t.setAside(c)
	}
	if err := t.dropAside(c); err != nil {
		return false, err
	}
	switch c.Table {
	case record.TableUsers:
		return t.user(id, c)
	case record.TableDeadUsers:
		d, err := unseal(c, record.DecodeUserTombstone)
		if err == nil {
			err = checkGroups(d.Groups)
		}
		if err != nil {
			return false, err
		}
		return t.buryUser(*d)
	case record.TableKeys:
		return false, t.key(id, c)
	case record.TableDeadKeys:
		d, err := unseal(c, record.DecodeKeyTombstone)
		if err == nil {
			err = checkGroups(d.Groups)
		}
		if err != nil {
			return false, err
		}
		return false, t.buryKey(*d)
	case record.TableGroups:
		return false, t.group(c)
	case record.TableLastUse:
		return false, t.use(c)
	}
	return false, fmt.Errorf("%w: the records of table %q do not travel", ErrInvalid, c.Table)
}

// unseal decodes the record of a copy.
//
// Errors: [ErrInvalid].
func unseal[T any](c record.Copy, decode func(uuid.UUID, []byte) (T, error)) (*T, error) {
	r, err := record.Unseal(c.Table, c.Key, c.Sealed, decode)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return r, nil
}

// get returns the record that the store has under an ID, or nil. If the record is damaged, get
// returns [record.ErrDamaged], and a zero record that can be replaced.
func get[T any](t *Tables, table string, id uuid.UUID, decode func(uuid.UUID, []byte) (T, error)) (*T, error) {
	sealed, err := t.Get(table, id[:])
	if err != nil || sealed == nil {
		return nil, err
	}
	return record.Unseal(table, id[:], sealed, decode)
}

// has reports whether a table has an entry.
func (t *Tables) has(table string, id uuid.UUID) (bool, error) {
	value, err := t.Get(table, id[:])
	return value != nil, err
}

// put writes a record.
//
// Errors: [ErrInvalid] if the record is too large, and then nothing was written.
func (t *Tables) put(table string, key, message []byte) error {
	sealed, err := seal(table, key, message)
	if err != nil {
		return err
	}
	return t.Put(table, key, sealed)
}

func seal(table string, key, message []byte) ([]byte, error) {
	sealed := record.Seal(table, key, message)
	if len(sealed) > record.MaxSize {
		return nil, fmt.Errorf("%w: merged, the record %s/%x has %d bytes, and the most is %d", ErrInvalid, table, key, len(sealed), record.MaxSize)
	}
	return sealed, nil
}

// checkGroups returns [ErrInvalid] unless groups can have these names.
func checkGroups(groups record.Groups) error {
	for _, g := range groups {
		if g.Value != "" {
			if err := checkGroup(g.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkGroup(name string) error {
	if name == "*" {
		return fmt.Errorf("%w: the name of a group stands for all groups", ErrInvalid)
	}
	return checkText("the name of a group", name)
}

func checkText(what, s string) error {
	if problem := names.Problem(names.Stored, s); problem != "" {
		return fmt.Errorf("%w: %s %s", ErrInvalid, what, problem)
	}
	return nil
}

// changeIndex replaces the index entries of an earlier version of a record by those of a later one.
// With Reindex, the indexes may lack some of the earlier version.
func (t *Tables) changeIndex(id uuid.UUID, was, is []record.IndexEntry) error {
	for _, e := range was {
		if !hasEntry(is, e) {
			if err := t.Remove(id, e); err != nil {
				return err
			}
		}
	}
	for _, e := range is {
		if t.Reindex || !hasEntry(was, e) {
			if err := t.Enter(id, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// reindex writes the entries of a record that stays as it is, if they can be missing.
func (t *Tables) reindex(id uuid.UUID, is []record.IndexEntry) error {
	if !t.Reindex {
		return nil
	}
	return t.changeIndex(id, is, is)
}

func hasEntry(entries []record.IndexEntry, e record.IndexEntry) bool {
	for _, other := range entries {
		if other.Table == e.Table && bytes.Equal(other.Key, e.Key) {
			return true
		}
	}
	return false
}
