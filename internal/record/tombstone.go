package record

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// A UserTombstone is what is left of a deleted user. Deletion wins over every other change, for
// good, and takes the user's keys along.
type UserTombstone struct {
	ID      uuid.UUID // the table's key
	Groups  Groups
	Unknown Unknown
}

// Tombstone returns the tombstone of a user.
func (u User) Tombstone() UserTombstone {
	return UserTombstone{ID: u.ID, Groups: slices.Clone(u.Groups)}
}

// Merge returns what two tombstones of one user merge to.
func (d UserTombstone) Merge(other UserTombstone) UserTombstone {
	return UserTombstone{ID: d.ID, Groups: d.Groups.merge(other.Groups), Unknown: d.Unknown.merge(other.Unknown)}
}

// Encode returns the tombstone's message. Its fields have the numbers of those of [User].
func (d UserTombstone) Encode() []byte {
	t := newReplicaTable(d.Groups.stamps())
	var m Message
	t.fields(&m, userReplicas)
	d.Groups.fields(&m, userGroups, t)
	return append(m, d.Unknown.sorted()...)
}

// DecodeUserTombstone reads a tombstone's message.
//
// Errors: [ErrDamaged].
func DecodeUserTombstone(id uuid.UUID, message []byte) (d UserTombstone, err error) {
	d.ID = id
	t, err := decodeReplicas(message, userReplicas)
	if err != nil {
		return d, err
	}
	for f, err := range Fields(message) {
		if err != nil {
			return d, err
		}
		switch f.Num {
		case userReplicas: // in t already
		case userGroups:
			err = d.Groups.add(f.Bytes, t)
		default:
			d.Unknown.add(f)
		}
		if err != nil {
			return d, err
		}
	}
	d.Groups, d.Unknown = d.Groups.merge(nil), d.Unknown.sorted()
	return d, nil
}

// A KeyTombstone is what is left of a deleted key. Deletion wins over every other change, for good.
type KeyTombstone struct {
	ID      uuid.UUID // the table's key
	Owner   uuid.UUID
	Groups  Groups
	Foreign bool // see [Key]
	Unknown Unknown
}

// Tombstone returns the tombstone of a key.
func (k Key) Tombstone() KeyTombstone {
	return KeyTombstone{ID: k.ID, Owner: k.Owner, Groups: slices.Clone(k.Groups), Foreign: k.Foreign}
}

// Merge returns what two tombstones of one key merge to.
//
// Errors: [ErrDifferentOwner].
func (d KeyTombstone) Merge(other KeyTombstone) (KeyTombstone, error) {
	if d.Owner != other.Owner {
		return KeyTombstone{}, fmt.Errorf("%w: key %s", ErrDifferentOwner, d.ID)
	}
	return KeyTombstone{
		ID: d.ID, Owner: d.Owner,
		Groups:  d.Groups.merge(other.Groups),
		Foreign: d.Foreign || other.Foreign,
		Unknown: d.Unknown.merge(other.Unknown),
	}, nil
}

// Encode returns the tombstone's message. Its fields have the numbers of those of [Key].
func (d KeyTombstone) Encode() []byte {
	t := newReplicaTable(d.Groups.stamps())
	var m Message
	m.Bytes(keyOwner, d.Owner[:])
	t.fields(&m, keyReplicas)
	d.Groups.fields(&m, keyGroups, t)
	m.Bool(keyForeign, d.Foreign)
	return append(m, d.Unknown.sorted()...)
}

// DecodeKeyTombstone reads a tombstone's message.
//
// Errors: [ErrDamaged].
func DecodeKeyTombstone(id uuid.UUID, message []byte) (d KeyTombstone, err error) {
	d.ID = id
	t, err := decodeReplicas(message, keyReplicas)
	if err != nil {
		return d, err
	}
	owned := false
	for f, err := range Fields(message) {
		if err != nil {
			return d, err
		}
		switch f.Num {
		case keyOwner:
			owned = true
			d.Owner, err = DecodeID(f.Bytes)
		case keyReplicas: // in t already
		case keyGroups:
			err = d.Groups.add(f.Bytes, t)
		case keyForeign:
			d.Foreign = f.Number != 0
		default:
			d.Unknown.add(f)
		}
		if err != nil {
			return d, err
		}
	}
	if !owned {
		return d, fmt.Errorf("%w: the tombstone of a key without an owner", ErrDamaged)
	}
	d.Groups, d.Unknown = d.Groups.merge(nil), d.Unknown.sorted()
	return d, nil
}
