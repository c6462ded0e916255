// Package unburied deletes keys and users of an engine that is full, and buries them when there is
// room.
//
// A full engine takes only transactions that delete. So the record of a key or a user is deleted
// without a tombstone, which is enough to refuse all logins. The entries in indexes stay. An entry
// in the index of names leads to a key, and one in the index of identities to a user, because every
// user has one.
//
// The same transaction deletes the entry [record.MetaBuried], so its absence says that a tombstone
// may be missing. Every process looks for it now and then. If it is not there, the process goes
// through the indexes, writes the tombstones of the records that are gone, and puts the entry back.
// The process that has deleted the records comes first as long as it lives, because it knows what
// was in them.
package unburied

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Yard has the records of one process that have no tombstone yet.
type Yard struct {
	domain uuid.UUID
	// update runs a function in a transaction that writes, and view in one that reads.
	update, view func(ctx context.Context, fn func(*merge.Tables) error) error

	mu   sync.Mutex
	left []lost
}

// lost is a record that was deleted.
type lost struct {
	ctx       context.Context // with the actor of the deletion
	table     string
	id        uuid.UUID
	sealed    []byte
	tombstone record.Copy
}

// New returns an empty yard of a store.
func New(domain uuid.UUID, update, view func(ctx context.Context, fn func(*merge.Tables) error) error) *Yard {
	return &Yard{domain: domain, update: update, view: view}
}

// Key deletes the record of a key. It returns notFound if another process has deleted it.
func (y *Yard) Key(ctx context.Context, id uuid.UUID, notFound error) error {
	var gone []lost
	err := y.update(ctx, func(t *merge.Tables) (err error) {
		gone, err = y.deleteKeys(ctx, t, nil, id)
		return err
	})
	if err == nil && len(gone) == 0 {
		return notFound
	}
	y.add(gone, err)
	return err
}

// User deletes the record of a user, which refuses all keys of the user, and then the records of
// the keys. If User fails, some keys may be left, and User can be called again. It returns notFound
// if neither the user nor a key is left.
func (y *Yard) User(ctx context.Context, id uuid.UUID, notFound error) error {
	var user []lost
	err := y.update(ctx, func(t *merge.Tables) error {
		user = nil
		u, sealed, err := get(t, record.TableUsers, id, record.DecodeUser)
		if err != nil || u == nil {
			return err
		}
		user = append(user, y.lost(ctx, record.TableUsers, id, sealed, record.TableDeadUsers, u.Tombstone().Encode()))
		t.DropCached(cache.Stale{Users: []uuid.UUID{id}})
		if err := leaveOpen(t); err != nil {
			return err
		}
		return t.DeleteOnly(record.TableUsers, id[:])
	})
	found := len(user) > 0
	for from := id[:]; err == nil && from != nil; {
		var gone []lost
		var next []byte
		err = y.update(ctx, func(t *merge.Tables) (err error) {
			var keys []uuid.UUID
			if keys, next, err = keysOf(t, id, from); err == nil {
				gone, err = y.deleteKeys(ctx, t, nil, keys...)
			}
			return err
		})
		y.add(gone, err)
		found = found || len(gone) > 0
		from = next
	}
	if err == nil && !found {
		return notFound
	}
	y.add(user, nil) // buried behind the keys, whose tombstones have more so
	return err
}

// leaveOpen leaves it to any process to look for tombstones that are missing.
func leaveOpen(t *merge.Tables) error {
	return t.DeleteOnly(record.TableMeta, []byte(record.MetaBuried))
}

// someKeys is how many keys one transaction looks at. A full engine may refuse a transaction that
// reads more than a hundred entries, and each key takes two.
const someKeys = 40

// keysOf returns the IDs of some keys of a user, from an entry in the index of names on, and the
// first entry behind them, or nil. The entries of keys that are gone are still there.
func keysOf(t *merge.Tables, owner uuid.UUID, from []byte) (ids []uuid.UUID, next []byte, err error) {
	n := 0
	for e, err := range t.Scan(record.TableNames, from, append(owner[:], 0xff)) {
		if err != nil {
			return nil, nil, err
		}
		if n++; n > someKeys {
			return ids, e.Key, nil
		}
		if _, id, err := record.SplitNameKey(e.Key); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil, nil
}

// deleteKeys deletes the records of keys, and appends them to gone.
func (y *Yard) deleteKeys(ctx context.Context, t *merge.Tables, gone []lost, ids ...uuid.UUID) ([]lost, error) {
	for _, id := range ids {
		k, sealed, err := get(t, record.TableKeys, id, record.DecodeKey)
		if err != nil {
			return nil, err
		}
		if k == nil {
			continue
		}
		gone = append(gone, y.lost(ctx, record.TableKeys, id, sealed, record.TableDeadKeys, k.Tombstone().Encode()))
		t.DropCached(cache.Stale{Keys: []uuid.UUID{id}})
		if err := t.DeleteOnly(record.TableKeys, id[:]); err != nil {
			return nil, err
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	return gone, leaveOpen(t)
}

func get[T any](t *merge.Tables, table string, id uuid.UUID, decode func(uuid.UUID, []byte) (T, error)) (r *T, sealed []byte, err error) {
	sealed, err = t.Get(table, id[:])
	if err != nil || sealed == nil {
		return nil, nil, err
	}
	r, err = record.Unseal(table, id[:], sealed, decode)
	return r, sealed, err
}

func (y *Yard) lost(ctx context.Context, table string, id uuid.UUID, sealed []byte, dead string, tombstone []byte) lost {
	return lost{context.WithoutCancel(ctx), table, id, sealed, y.tombstone(dead, id, tombstone)}
}

func (y *Yard) tombstone(table string, id uuid.UUID, message []byte) record.Copy {
	return record.Copy{Domain: y.domain, Table: table, Key: id[:], Sealed: record.Seal(table, id[:], message)}
}

// add notes records that were deleted, unless their transaction has failed.
func (y *Yard) add(gone []lost, err error) {
	if err != nil {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.left = append(y.left, gone...)
}

// Every is how often Run tries to bury what this process has deleted.
const Every = 10 * time.Second

// LookEach is after how many rounds Run looks again for what other processes have left. A test that
// cannot wait changes it.
var LookEach = 30

// Run buries what is left, by this process or by another one, until ctx ends. It looks for what
// others have left at the beginning, and as soon as this process has buried its own.
func (y *Yard) Run(ctx context.Context) {
	ticks := time.NewTicker(Every)
	defer ticks.Stop()
	for n := 0; ; n++ {
		if y.bury(ctx) || n%LookEach == 0 {
			_ = y.look(ctx) // which is tried again
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// bury writes the tombstones of records that this process has deleted, and stops at the first
// error. It reports whether it has written any and none is left.
func (y *Yard) bury(ctx context.Context) (done bool) {
	for {
		y.mu.Lock()
		left := y.left
		y.mu.Unlock()
		if len(left) == 0 || ctx.Err() != nil {
			return done
		}
		for more, again := true, false; more; again = true {
			err := y.update(left[0].ctx, func(t *merge.Tables) (err error) {
				more, err = left[0].bury(t, again)
				return err
			})
			if err != nil {
				return false
			}
		}
		y.mu.Lock()
		y.left = y.left[1:]
		y.mu.Unlock()
		done = true
	}
}

// bury writes the tombstone of a record, unless the record is of a user that is there again: a new
// user with the same identity has the same ID. A key that is there again has come from another
// store of the domain, and is buried. Otherwise the record comes back for that, in the same
// transaction, so that the tombstone and the hook have all that was in it. Another process may have
// written a tombstone that has less. If more is set, keys of the user are left, and bury has to be
// called again.
func (l *lost) bury(t *merge.Tables, again bool) (more bool, err error) {
	has, err := t.Get(l.table, l.id[:])
	if err == nil && has != nil && l.table == record.TableUsers {
		return false, nil
	}
	if err == nil && has == nil && !again {
		err = t.PutCopied(l.table, l.id[:], l.sealed)
	}
	if err != nil {
		return false, err
	}
	return t.Record(l.tombstone)
}

// look writes the tombstones that are missing, if any can be. First it puts a mark of its own in
// the place of the entry that says that none is missing. If the mark is still there in the end,
// nothing was deleted without a tombstone meanwhile.
func (y *Yard) look(ctx context.Context) error {
	var buried bool
	err := y.view(ctx, func(t *merge.Tables) error {
		is, err := t.Get(record.TableMeta, []byte(record.MetaBuried))
		buried = len(is) == len(All)
		return err
	})
	if err != nil || buried {
		return err
	}
	mark := uuid.New()
	put := func(old, mark []byte) error {
		return y.update(ctx, func(t *merge.Tables) error {
			if old != nil {
				if is, err := t.Get(record.TableMeta, []byte(record.MetaBuried)); err != nil || !bytes.Equal(is, old) {
					return err
				}
			}
			return t.Put(record.TableMeta, []byte(record.MetaBuried), mark)
		})
	}
	if err := put(nil, mark[:]); err != nil {
		return err
	}
	if err := y.buryAll(ctx, y.findNames, y.buryEntry); err != nil {
		return err
	}
	if err := y.buryAll(ctx, y.findIdentities, y.buryHolders); err != nil {
		return err
	}
	return put(mark[:], All)
}

// All is the value of the entry that says that no tombstone is missing. It is shorter than a mark.
var All = []byte{1}

// buryAll calls bury for all entries that find finds.
func (y *Yard) buryAll(
	ctx context.Context, find func(context.Context) ([][]byte, error), bury func(t *merge.Tables, entry []byte) (more bool, err error),
) error {
	entries, err := find(ctx)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		for more := true; more; {
			err := y.update(ctx, func(t *merge.Tables) (err error) {
				more, err = bury(t, entry)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// findNames returns the entries of the index of names whose key is gone. If there are as many
// entries as keys, findNames reads none of them.
func (y *Yard) findNames(ctx context.Context) (entries [][]byte, err error) {
	err = y.view(ctx, func(t *merge.Tables) error {
		names, err := t.Count(record.TableNames)
		if err != nil {
			return err
		}
		keys, err := t.Count(record.TableKeys)
		if names == keys {
			entries = [][]byte{}
		}
		return err
	})
	if err != nil || entries != nil {
		return nil, err
	}
	return y.find(ctx, record.TableNames, func(t *merge.Tables, e merge.Entry) (bool, error) {
		_, id, err := record.SplitNameKey(e.Key)
		if err != nil {
			return false, nil // which Check finds
		}
		sealed, err := t.Get(record.TableKeys, id[:])
		return sealed == nil, err
	})
}

// findIdentities returns the entries of the index of identities that have a user that is gone.
func (y *Yard) findIdentities(ctx context.Context) ([][]byte, error) {
	return y.find(ctx, record.TableIdentities, func(t *merge.Tables, e merge.Entry) (bool, error) {
		gone, err := goneHolders(t, e.Value)
		return len(gone) > 0, err
	})
}

// goneHolders returns the users in an entry of the index of identities that have no record.
func goneHolders(t *merge.Tables, value []byte) (gone []uuid.UUID, err error) {
	for _, id := range record.Holders(value) {
		sealed, err := t.Get(record.TableUsers, id[:])
		if err != nil {
			return nil, err
		}
		if sealed == nil {
			gone = append(gone, id)
		}
	}
	return gone, nil
}

// find returns the keys of the entries of a table for which is reports true.
func (y *Yard) find(ctx context.Context, table string, is func(*merge.Tables, merge.Entry) (bool, error)) (entries [][]byte, err error) {
	err = merge.InSteps(ctx, y.view, table, page, func(t *merge.Tables, e merge.Entry) error {
		found, err := is(t, e)
		if found {
			entries = append(entries, e.Key)
		}
		return err
	})
	return entries, err
}

// page is how many entries one transaction looks at.
const page = 256

// buryEntry buries the key of an entry in the index of names, if the key has no record, and an
// owner without a record.
func (y *Yard) buryEntry(t *merge.Tables, entry []byte) (more bool, err error) {
	_, id, err := record.SplitNameKey(entry)
	if err != nil {
		return false, err
	}
	if sealed, err := t.Get(record.TableKeys, id[:]); err != nil || sealed != nil {
		return false, err
	}
	d := record.KeyTombstone{ID: id, Owner: uuid.UUID(entry[:len(id)])}
	if d.Owner != record.ServerOwner {
		owner, err := t.Get(record.TableUsers, d.Owner[:])
		if err == nil && owner == nil {
			return y.buryUser(t, d.Owner) // with all keys
		}
		if err != nil {
			return false, err
		}
	} else if d.Groups, err = takeMember(t, id); err != nil {
		return false, err
	}
	if _, err := t.Record(y.tombstone(record.TableDeadKeys, id, d.Encode())); err != nil {
		return false, err
	}
	return false, t.Delete(record.TableNames, entry)
}

// buryUser buries a user that has no record.
func (y *Yard) buryUser(t *merge.Tables, id uuid.UUID) (more bool, err error) {
	groups, err := takeMember(t, id)
	if err != nil {
		return false, err
	}
	return t.Record(y.tombstone(record.TableDeadUsers, id, record.UserTombstone{ID: id, Groups: groups}.Encode()))
}

// buryHolders buries the users of an entry in the index of identities that have no record. It
// leaves the entry without them.
func (y *Yard) buryHolders(t *merge.Tables, entry []byte) (more bool, err error) {
	value, err := t.Get(record.TableIdentities, entry)
	if err != nil {
		return false, err
	}
	gone, err := goneHolders(t, value)
	for _, id := range gone {
		if more, err = y.buryUser(t, id); err != nil || more {
			return more, err
		}
		if err := t.Release(entry, id); err != nil {
			return false, err
		}
	}
	return false, err
}

// takeMember deletes the entry of a user or a server key in the index of members, and returns the
// group, which goes into the tombstone so that the stores of the group hear of it.
func takeMember(t *merge.Tables, id uuid.UUID) (groups record.Groups, err error) {
	for e, err := range t.Scan(record.TableMembers, nil, nil) {
		if err != nil {
			return nil, err
		}
		if group, member, err := record.SplitMemberKey(e.Key); err == nil && member == id {
			return groups.Set(group, record.Stamp{Counter: 1}), t.Delete(record.TableMembers, e.Key)
		}
	}
	return nil, nil
}
