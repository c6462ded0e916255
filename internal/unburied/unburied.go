// Package unburied deletes keys and users of an engine that is full, and buries them when there is
// room.
//
// A full engine takes only transactions that delete. So the record of a key or a user is deleted
// without a tombstone, which is enough to refuse all logins. The entries in indexes stay: by the
// entry in the index of names, each opening finds the keys whose tombstones were never written.
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
	ctx       context.Context // with the actor who has deleted it
	table     string
	id        uuid.UUID
	sealed    []byte
	tombstone record.Copy
}

// New returns an empty yard of a store.
func New(domain uuid.UUID, update, view func(ctx context.Context, fn func(*merge.Tables) error) error) *Yard {
	return &Yard{domain: domain, update: update, view: view}
}

// Key deletes the record of a key, if it is there.
func (y *Yard) Key(ctx context.Context, id uuid.UUID) error {
	var gone []lost
	err := y.update(ctx, func(t *merge.Tables) (err error) {
		gone, err = y.deleteKeys(ctx, t, nil, id)
		return err
	})
	y.add(gone, err)
	return err
}

// User deletes the record of a user, which refuses all keys of the user, and then the records of
// the keys. If User fails, some keys may be left, and User can be called again.
func (y *Yard) User(ctx context.Context, id uuid.UUID) error {
	var user []lost
	err := y.update(ctx, func(t *merge.Tables) error {
		user = nil
		u, sealed, err := get(t, record.TableUsers, id, record.DecodeUser)
		if err != nil || u == nil {
			return err
		}
		user = append(user, y.lost(ctx, record.TableUsers, id, sealed, record.TableDeadUsers, u.Tombstone().Encode()))
		t.DropCached(cache.Stale{Users: []uuid.UUID{id}})
		return t.DeleteOnly(record.TableUsers, id[:])
	})
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
		from = next
	}
	y.add(user, nil) // buried behind the keys, whose tombstones have more so
	return err
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
	return gone, nil
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

// Every is how often Run tries to bury what is left.
const Every = 10 * time.Second

// Run buries what is left, by this process or by an earlier one, until ctx ends.
func (y *Yard) Run(ctx context.Context) {
	ticks := time.NewTicker(Every)
	defer ticks.Stop()
	found := false
	for {
		if !found {
			found = y.buryFound(ctx) == nil
		}
		y.bury(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// bury writes the tombstones of records that this process has deleted, and stops at the first
// error.
func (y *Yard) bury(ctx context.Context) {
	for {
		y.mu.Lock()
		left := y.left
		y.mu.Unlock()
		if len(left) == 0 || ctx.Err() != nil {
			return
		}
		for more, again := true, false; more; again = true {
			err := y.update(left[0].ctx, func(t *merge.Tables) (err error) {
				more, err = left[0].bury(t, again)
				return err
			})
			if err != nil {
				return
			}
		}
		y.mu.Lock()
		y.left = y.left[1:]
		y.mu.Unlock()
	}
}

// bury writes the tombstone of a record, unless the record is there again. The record comes back
// for that, in the same transaction, so that the tombstone and the hook have all that was in it.
// Another process may have written a tombstone that has less. If more is set, keys of the user are
// left, and bury has to be called again.
func (l *lost) bury(t *merge.Tables, again bool) (more bool, err error) {
	has, err := t.Get(l.table, l.id[:])
	if err == nil && has != nil {
		return false, nil
	}
	if err == nil && !again {
		err = t.PutCopied(l.table, l.id[:], l.sealed)
	}
	if err != nil {
		return false, err
	}
	return t.Record(l.tombstone)
}

// buryFound buries the keys that have an entry in the index of names and no record, and their
// owners if these have no record either. It looks at all entries, unless there are as many entries
// as keys.
func (y *Yard) buryFound(ctx context.Context) error {
	entries, err := y.find(ctx)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		for more := true; more; {
			err := y.update(ctx, func(t *merge.Tables) (err error) {
				more, err = y.buryEntry(t, entry)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// find returns the entries of the index of names without a key.
func (y *Yard) find(ctx context.Context) (entries [][]byte, err error) {
	var after []byte
	for more := true; more; {
		err := y.view(ctx, func(t *merge.Tables) error {
			names, err := t.Count(record.TableNames)
			if err != nil {
				return err
			}
			keys, err := t.Count(record.TableKeys)
			if more = false; err != nil || names == keys {
				return err
			}
			n := 0
			for e, err := range t.Scan(record.TableNames, after, nil) {
				if err != nil {
					return err
				}
				if n++; n > page {
					more = true
					return nil
				}
				after = append(bytes.Clone(e.Key), 0)
				_, id, err := record.SplitNameKey(e.Key)
				if err != nil {
					continue // which Check finds
				}
				if sealed, err := t.Get(record.TableKeys, id[:]); err != nil {
					return err
				} else if sealed == nil {
					entries = append(entries, e.Key)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return entries, nil
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
			var groups record.Groups
			if groups, err = takeMember(t, d.Owner); err == nil {
				more, err = t.Record(y.tombstone(record.TableDeadUsers, d.Owner, record.UserTombstone{ID: d.Owner, Groups: groups}.Encode()))
			}
			return more, err // which buries all keys of the user
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
