package record

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// An IndexEntry is an entry of an index.
type IndexEntry struct {
	Table      string
	Key, Value []byte
}

// Index returns the entries of the indexes that are made from the user.
func (u User) Index() (entries []IndexEntry) {
	for _, i := range u.Linked() {
		entries = append(entries, IndexEntry{TableIdentities, IdentityKey(i.Provider, i.Subject), u.ID[:]})
	}
	if len(entries) == 0 {
		entries = append(entries, IndexEntry{TableIdentities, NoIdentityKey(u.ID), u.ID[:]})
	}
	return append(entries, memberEntries(u.Groups.Now(), u.ID)...)
}

// Index returns the entries of the indexes that are made from the key.
func (k Key) Index() []IndexEntry {
	name := IndexEntry{Table: TableNames, Key: NameKey(k.Owner, k.Name.Value, k.ID)}
	entries := append([]IndexEntry{name}, memberEntries(k.Groups.Now(), k.ID)...)
	for _, v := range k.Verifiers.All {
		if v.Handle != (Handle{}) && !v.Retired {
			entries = append(entries, IndexEntry{Table: TableHandles, Key: HandleKey(v.Handle, k.ID)})
		}
	}
	return entries
}

// memberEntries returns the entries of a user or a key in the index of members: one, or none
// without a group.
func memberEntries(group string, id uuid.UUID) []IndexEntry {
	if group == "" {
		return nil
	}
	return []IndexEntry{{Table: TableMembers, Key: MemberKey(group, id)}}
}

// IdentityKey returns the key of an identity in its index: provider, a zero byte, subject. No
// provider has a zero byte in its name.
func IdentityKey(provider, subject string) []byte {
	return slices.Concat([]byte(provider), []byte{0}, []byte(subject))
}

// NoIdentityKey returns the key under which the index of identities has a user without identities.
// Two replicas that were apart can each have unlinked one of two identities. The key belongs to no
// identity, because no provider has an empty name.
func NoIdentityKey(user uuid.UUID) []byte { return IdentityKey("", string(user[:])) }

// SplitIdentityKey returns what [IdentityKey] was called with, and reports whether key is such a
// key.
func SplitIdentityKey(key []byte) (provider, subject string, ok bool) {
	p, s, ok := bytes.Cut(key, []byte{0})
	return string(p), string(s), ok
}

// Holders returns the users in an entry of the index of identities, in the order of their IDs.
// There is mostly one. Replicas that were apart can have linked one identity to several users.
func Holders(value []byte) (users []uuid.UUID) {
	for id := range slices.Chunk(value, len(uuid.UUID{})) {
		if len(id) == len(uuid.UUID{}) {
			users = append(users, uuid.UUID(id))
		}
	}
	return users
}

// WithHolder returns the value of an entry of the index of identities with a user.
func WithHolder(value []byte, user uuid.UUID) []byte {
	users := append(Holders(value), user)
	sorted.Func(users, compareIDs)
	return joinIDs(slices.Compact(users))
}

// WithoutHolder returns the value of an entry of the index of identities without a user, and
// reports whether it had the user.
func WithoutHolder(value []byte, user uuid.UUID) (left []byte, had bool) {
	users := Holders(value)
	i := slices.Index(users, user)
	if i < 0 {
		return value, false
	}
	return joinIDs(slices.Delete(users, i, i+1)), true
}

func joinIDs(ids []uuid.UUID) (b []byte) {
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

// NameKey returns the key of an entry in the index of names: owner, name, a zero byte, the key's
// ID. No name has a zero byte.
func NameKey(owner uuid.UUID, name string, id uuid.UUID) []byte {
	return slices.Concat(owner[:], []byte(name), []byte{0}, id[:])
}

// SplitNameKey returns the name and the ID in a [NameKey].
//
// Errors: [ErrDamaged].
func SplitNameKey(key []byte) (name string, id uuid.UUID, err error) {
	if len(key) < len(id) {
		return "", id, fmt.Errorf("%w: bad entry in the index of names", ErrDamaged)
	}
	return splitEntry("names", key[len(id):])
}

// MemberKey returns the key of an entry in the index of members: group, a zero byte, the ID of a
// user or a server key. No group has a zero byte in its name.
func MemberKey(group string, id uuid.UUID) []byte {
	return slices.Concat([]byte(group), []byte{0}, id[:])
}

// SplitMemberKey returns what [MemberKey] was called with.
//
// Errors: [ErrDamaged].
func SplitMemberKey(key []byte) (group string, id uuid.UUID, err error) {
	if group, id, err = splitEntry("members", key); err == nil && group == "" {
		err = fmt.Errorf("%w: an entry without a group in the index of members", ErrDamaged)
	}
	return group, id, err
}

// HandleKey returns the key of an entry in the index of handles: the handle and the key's ID.
func HandleKey(h Handle, id uuid.UUID) []byte { return append(h[:], id[:]...) }

// SplitHandleKey returns what [HandleKey] was called with.
//
// Errors: [ErrDamaged].
func SplitHandleKey(key []byte) (h Handle, id uuid.UUID, err error) {
	if len(key) != len(h)+len(id) {
		return h, id, fmt.Errorf("%w: bad entry in the index of handles", ErrDamaged)
	}
	return Handle(key[:len(h)]), uuid.UUID(key[len(h):]), nil
}

// splitEntry splits a text, a zero byte and an ID.
func splitEntry(index string, b []byte) (text string, id uuid.UUID, err error) {
	end := len(b) - len(id) - 1
	if end < 0 || b[end] != 0 {
		return "", id, fmt.Errorf("%w: bad entry in the index of %s", ErrDamaged, index)
	}
	return string(b[:end]), uuid.UUID(b[end+1:]), nil
}
