package latchkey

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/sorted"
)

// A KeyFilter says which keys [Store.AllKeys] lists: the keys that agree with every field. The zero
// value of a field agrees with every key.
type KeyFilter struct {
	Owner      uuid.UUID // a user's ID, or [ServerOwner]
	Group      string    // of the server key, or of the user that owns the key
	NamePrefix string    // how the name of the key begins
	State      KeyState
	// ExpiringBefore lists the keys that have not expired, but will have expired at this time.
	ExpiringBefore time.Time
	// UnusedSince lists the keys that were made before this time and have not been used since then,
	// as far as the store knows: see [Key].LastUsed.
	UnusedSince time.Time
	// TagSecretBefore lists the keys whose newest token was made under a tag secret with a lower
	// number, and the keys that have no Tokens any more. Before you retire these tag secrets,
	// rotate these keys. See [TagSecret].
	TagSecretBefore uint64
}

// A KeyState is a state of a key. It does not depend on the key's user and group.
type KeyState int

// The states. A key that is disabled and has expired is in two states: KeyDisabled and KeyExpired.
const (
	KeyEnabled KeyState = iota + 1 // neither disabled nor expired
	KeyDisabled
	KeyExpired
)

// KeyByID returns the key with an ID, of any owner. It is for administrators. [Store.Key] answers
// the request of a user.
//
// It returns [ErrKeyNotFound], or an error of [Store.View].
func (s *Store) KeyByID(ctx context.Context, id uuid.UUID) (Key, error) {
	key, err := read(ctx, s, func(tx *Tx) (Key, error) { return tx.KeyByID(id) })
	return key, wrapf(err, "key %s", id)
}

// KeyByID is [Store.KeyByID] in a transaction.
func (tx *Tx) KeyByID(id uuid.UUID) (Key, error) {
	k, err := tx.getKey(id)
	if err != nil {
		return Key{}, err
	}
	if k == nil {
		return Key{}, ErrKeyNotFound
	}
	return tx.toKey(k)
}

// AllKeys yields the keys that f lists, of all owners, in the order of their IDs, and only the keys
// with an ID greater than after. [uuid.Nil] is the beginning. To continue later, pass the ID of the
// last key that was yielded. As in [Store.Users], the body of the loop may call the store, and
// writers do not wait. A key that is made, changed or deleted meanwhile may or may not be yielded.
// If f has an Owner or a Group, AllKeys reads an index, and the keys that the index lists.
// Otherwise AllKeys reads every key.
//
// An error, one of [Store.View], is yielded once, as the last element.
func (s *Store) AllKeys(ctx context.Context, f KeyFilter, after uuid.UUID) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		ids, err := read(ctx, s, func(tx *Tx) ([]uuid.UUID, error) { return tx.indexedKeys(f) })
		if err != nil {
			yield(Key{}, wrapf(err, "keys after %s", after))
			return
		}
		list := func(tx *Tx, after uuid.UUID) iter.Seq2[Key, error] { return tx.keysAfter(after, ids) }
		f.filter(inPages(ctx, s, "keys", after, list, func(k Key) uuid.UUID { return k.ID }), s.now())(yield)
	}
}

// AllKeys is [Store.AllKeys] in a transaction.
func (tx *Tx) AllKeys(f KeyFilter, after uuid.UUID) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		ids, err := tx.indexedKeys(f)
		if err != nil {
			yield(Key{}, err)
			return
		}
		f.filter(tx.keysAfter(after, ids), tx.now())(yield)
	}
}

// ExpiringBefore is [Store.AllKeys] for the keys that have not expired, but will have expired at t.
func (s *Store) ExpiringBefore(ctx context.Context, t time.Time) iter.Seq2[Key, error] {
	return s.AllKeys(ctx, KeyFilter{ExpiringBefore: setTime(t)}, uuid.Nil)
}

// ExpiringBefore is [Store.ExpiringBefore] in a transaction.
func (tx *Tx) ExpiringBefore(t time.Time) iter.Seq2[Key, error] {
	return tx.AllKeys(KeyFilter{ExpiringBefore: setTime(t)}, uuid.Nil)
}

// setTime returns t for a field of a filter. For the zero time, with which the filter would list
// all keys, it returns the next one.
func setTime(t time.Time) time.Time {
	if t.IsZero() {
		t = t.Add(1)
	}
	return t
}

// indexedKeys returns the IDs of the keys that an index has for the owner or the group of a filter,
// in their order, and some IDs of users. It returns nil if the filter has neither.
func (tx *Tx) indexedKeys(f KeyFilter) (ids []uuid.UUID, err error) {
	var owners []uuid.UUID
	if f.Group != "" {
		ids, err = tx.membersOf(f.Group) // a server key is a member itself
		owners, ids = ids, append([]uuid.UUID{}, ids...)
	} else if f.Owner != uuid.Nil {
		owners, ids = []uuid.UUID{f.Owner}, []uuid.UUID{}
	}
	for _, owner := range owners {
		for id, err := range tx.keysOf(owner) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
	}
	sorted.Func(ids, compareIDs)
	return ids, err
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

// keysAfter yields the keys after an ID, in the order of their IDs: those with one of ids, or all
// keys if ids is nil.
func (tx *Tx) keysAfter(after uuid.UUID, ids []uuid.UUID) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		first, _ := slices.BinarySearchFunc(ids, after, compareIDs)
		for _, id := range ids[first:] {
			k, err := tx.KeyByID(id)
			if id == after || errors.Is(err, ErrKeyNotFound) {
				continue
			}
			if !yield(k, err) || err != nil {
				return
			}
		}
		if ids != nil {
			return
		}
		for e, err := range tx.etx.Scan(tableKeys, append(after[:], 0), nil) {
			k := &record.Key{}
			if err == nil {
				k, err = record.Unseal(tableKeys, e.Key, e.Value, record.DecodeKey)
			}
			var key Key
			if err == nil {
				key, err = tx.toKey(k)
			}
			if !yield(key, recordError(err)) || err != nil {
				return
			}
		}
	}
}

// taggedBefore reports whether the newest token of a key was made under a tag secret with a lower
// number, or is good no more.
func (k *Key) taggedBefore(number uint64) bool {
	n := len(k.Tokens)
	return n == 0 || !k.Tokens[n-1].Foreign && k.Tokens[n-1].TagSecret < number
}

// filter yields those of keys that the filter lists at a moment, as far as an index does not tell.
func (f *KeyFilter) filter(keys iter.Seq2[Key, error], now time.Time) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		for k, err := range keys {
			expired := !k.Expires.IsZero() && !k.Expires.After(now)
			switch {
			case err != nil:
			case f.Owner != uuid.Nil && f.Owner != k.Owner, !strings.HasPrefix(k.Name, f.NamePrefix),
				f.State == KeyEnabled && (expired || k.Disabled), f.State == KeyDisabled && !k.Disabled, f.State == KeyExpired && !expired,
				!f.ExpiringBefore.IsZero() && (expired || k.Expires.IsZero() || k.Expires.After(f.ExpiringBefore)),
				!f.UnusedSince.IsZero() && !k.unusedSince(f.UnusedSince),
				f.TagSecretBefore > 0 && !k.taggedBefore(f.TagSecretBefore):
				continue
			}
			if !yield(k, err) || err != nil {
				return
			}
		}
	}
}
