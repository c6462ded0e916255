package merge

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Replicas that are apart can give one identity to two users, and one name to two keys of an owner.
// The answers that the store gives about the records depend on that, so the cache has to forget a
// record when another one comes that has the same, and when the other one goes.

// maxHolders bounds the users in an entry of the index of identities. More come only of a replica
// that makes users up.
const maxHolders = 1024

// Enter writes an entry of a record into its index.
func (t *Tables) Enter(id uuid.UUID, e record.IndexEntry) error {
	switch e.Table {
	case record.TableIdentities:
		return t.Claim(e.Key, id)
	case record.TableNames:
		return t.changeName(e.Key, func() error { return t.Put(e.Table, e.Key, e.Value) })
	case record.TableHandles:
		if h, _, err := record.SplitHandleKey(e.Key); err == nil {
			t.LearnHandle(h)
		}
	}
	return t.Put(e.Table, e.Key, e.Value)
}

// Remove takes an entry of a record out of its index.
func (t *Tables) Remove(id uuid.UUID, e record.IndexEntry) error {
	switch e.Table {
	case record.TableIdentities:
		return t.Release(e.Key, id)
	case record.TableNames:
		return t.changeName(e.Key, func() error { return t.Delete(e.Table, e.Key) })
	}
	return t.Delete(e.Table, e.Key)
}

// Claim enters a user into the entry of an identity. If it is the second one there, the identity
// belongs to neither from then on.
func (t *Tables) Claim(identity []byte, user uuid.UUID) error {
	value, err := t.Get(record.TableIdentities, identity)
	if err != nil {
		return err
	}
	holders := record.Holders(value)
	if len(holders) >= maxHolders {
		return fmt.Errorf("%w: %d users have one identity already", ErrInvalid, len(holders))
	}
	if len(holders) == 1 && holders[0] != user {
		t.DropCached(cache.Stale{Users: holders})
	}
	return t.Put(record.TableIdentities, identity, record.WithHolder(value, user))
}

// Release takes a user out of the entry of an identity, if the entry has the user.
func (t *Tables) Release(identity []byte, user uuid.UUID) error {
	value, err := t.Get(record.TableIdentities, identity)
	if err != nil {
		return err
	}
	left, had := record.WithoutHolder(value, user)
	switch {
	case !had:
		return nil
	case len(left) == 0:
		return t.Delete(record.TableIdentities, identity)
	}
	if holders := record.Holders(left); len(holders) == 1 {
		t.DropCached(cache.Stale{Users: holders})
	}
	return t.Put(record.TableIdentities, identity, left)
}

// changeName puts or deletes an entry of the index of names. If another key of the owner has the
// name and is shown in another way from then on, the cache forgets that key.
func (t *Tables) changeName(entry []byte, change func() error) error {
	if err := change(); err != nil {
		return err
	}
	var owner uuid.UUID
	copy(owner[:], entry)
	name, id, err := record.SplitNameKey(entry)
	if err != nil {
		return err
	}
	others, err := t.Named(owner, name, id)
	if err == nil && len(others) == 1 {
		t.DropCached(cache.Stale{Keys: others})
	}
	return err
}

// WithoutIdentity returns the first users who have no identity, at most some number.
func (t *Tables) WithoutIdentity(most int) (users []uuid.UUID, err error) {
	for e, err := range t.Scan(record.TableIdentities, record.NoIdentityKey(uuid.Nil), append(record.NoIdentityKey(uuid.Max), 0)) {
		if err != nil || len(users) == most {
			return users, err
		}
		users = append(users, record.Holders(e.Value)...)
	}
	return users, nil
}

// Named returns the first keys of an owner that have a name, at most two, without the one with the
// ID except.
func (t *Tables) Named(owner uuid.UUID, name string, except uuid.UUID) (ids []uuid.UUID, err error) {
	for e, err := range t.Scan(record.TableNames, record.NameKey(owner, name, uuid.Nil), append(record.NameKey(owner, name, uuid.Max), 0)) {
		if err != nil {
			return nil, err
		}
		_, id, err := record.SplitNameKey(e.Key)
		if err != nil {
			return nil, err
		}
		if id != except {
			ids = append(ids, id)
		}
		if len(ids) == 2 {
			break
		}
	}
	return ids, nil
}

// MembersOf returns the IDs of the users and the server keys in a group.
func (t *Tables) MembersOf(group string) (ids []uuid.UUID, err error) {
	for e, err := range t.Scan(record.TableMembers, record.MemberKey(group, uuid.Nil), append(record.MemberKey(group, uuid.Max), 0)) {
		var id uuid.UUID
		if err == nil {
			_, id, err = record.SplitMemberKey(e.Key)
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
