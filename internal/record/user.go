package record

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// A User is what a table keeps of a user.
type User struct {
	ID      uuid.UUID // the table's key
	Created time.Time // to the millisecond; of two versions the earlier wins
	// Identities are in the order of their names. There are at most [MaxIdentities].
	Identities []Identity
	// Dropped is set when there were more identities than a record can have. Identities are gone if
	// their stamps are not higher.
	Dropped  Stamp
	Metadata Register[Metadata]
	Groups   Groups
	Flag     Flag
	Unknown  Unknown
}

// MaxIdentities is how many identities a record can have, unlinked ones included.
const MaxIdentities = 128

// An Identity is a pair that vouches for the user, or did. Each identity has a stamp of its own.
type Identity struct {
	Provider string
	Subject  string
	Stamp    Stamp   // of the last linking or unlinking
	Unlinked bool    // of equal stamps unlinked wins
	Unknown  Unknown // goes with the stamp
}

// Linked returns the identities that the user has, in the order of linking.
func (u User) Linked() (linked []Identity) {
	for _, i := range u.Identities {
		if !i.Unlinked {
			linked = append(linked, i)
		}
	}
	sorted.Func(linked, func(a, b Identity) int { return cmp.Or(a.Stamp.Compare(b.Stamp), a.compareNames(b)) })
	return linked
}

// Has reports whether the user has an identity.
func (u User) Has(provider, subject string) bool {
	return slices.ContainsFunc(u.Identities, func(i Identity) bool {
		return !i.Unlinked && i.Provider == provider && i.Subject == subject
	})
}

// Anonymous is the provider of anonymous identities.
const Anonymous = "anon-user"

// IsAnonymous reports whether the user has no identity but anonymous ones.
func (u User) IsAnonymous() bool {
	return !slices.ContainsFunc(u.Identities, func(i Identity) bool { return !i.Unlinked && i.Provider != Anonymous })
}

func (i Identity) compareNames(other Identity) int {
	return cmp.Or(strings.Compare(i.Provider, other.Provider), strings.Compare(i.Subject, other.Subject))
}

// SetIdentity returns the user with an identity linked or unlinked, under a stamp that [User.Next]
// has returned.
func (u User) SetIdentity(i Identity) User {
	u.Identities, u.Dropped = mergeIdentities(append(slices.Clone(u.Identities), i), u.Dropped)
	return u
}

// Forget returns the user without the identities that are unlinked. It is for a store that never
// had a replica.
func (u User) Forget() User {
	u.Identities = slices.DeleteFunc(slices.Clone(u.Identities), func(i Identity) bool { return i.Unlinked })
	return u
}

// Next returns the stamp of the next write to the record by a replica.
func (u User) Next(replica uuid.UUID) Stamp { return next(replica, u.stamps()) }

func (u User) stamps() []Stamp {
	all := append(u.Groups.stamps(), u.Metadata.Stamp, u.Dropped)
	for _, i := range u.Identities {
		all = append(all, i.Stamp)
	}
	return all
}

// Merge returns what two versions of one user merge to.
func (u User) Merge(other User) User {
	merged := User{
		ID:       u.ID,
		Created:  earlierCreation(u.Created, other.Created),
		Metadata: u.Metadata.merge(other.Metadata, encodeMetadata),
		Groups:   u.Groups.merge(other.Groups),
		Flag:     u.Flag.merge(other.Flag),
		Unknown:  u.Unknown.merge(other.Unknown),
	}
	merged.Identities, merged.Dropped = mergeIdentities(slices.Concat(u.Identities, other.Identities), u.Dropped.max(other.Dropped))
	merged.Metadata.Value = merged.Metadata.Value.clone()
	return merged
}

// mergeIdentities merges the identities of one name in a list, in which a name can be several
// times. The result is in the order of names. If it has too many identities, those with the lowest
// stamps are dropped.
func mergeIdentities(all []Identity, dropped Stamp) (merged []Identity, stillDropped Stamp) {
	sorted.StableFunc(all, Identity.compareNames)
	for _, i := range all {
		i.Unknown = slices.Clone(i.Unknown)
		if n := len(merged); n > 0 && merged[n-1].compareNames(i) == 0 {
			merged[n-1] = merged[n-1].merge(i)
		} else {
			merged = append(merged, i)
		}
	}
	merged = dropIdentities(merged, dropped)
	if extra := len(merged) - MaxIdentities; extra > 0 {
		byStamp := slices.Clone(merged)
		sorted.Func(byStamp, func(a, b Identity) int { return a.Stamp.Compare(b.Stamp) })
		dropped = byStamp[extra-1].Stamp
		merged = dropIdentities(merged, dropped)
	}
	return merged, dropped
}

// dropIdentities removes the identities whose stamps are not higher than one.
func dropIdentities(all []Identity, dropped Stamp) []Identity {
	if dropped == (Stamp{}) {
		return all
	}
	kept := slices.DeleteFunc(all, func(i Identity) bool { return i.Stamp.Compare(dropped) <= 0 })
	if len(kept) == 0 {
		return nil
	}
	return kept
}

// merge merges two versions of one identity.
func (i Identity) merge(other Identity) Identity {
	switch c := i.Stamp.Compare(other.Stamp); {
	case c > 0:
		return i
	case c < 0:
		return other
	}
	i.Unlinked = i.Unlinked || other.Unlinked
	i.Unknown = i.Unknown.merge(other.Unknown)
	return i
}

// The fields of a user's message.
const (
	userCreated    = 1
	userReplicas   = 2
	userFlag       = 3
	userIdentities = 4
	userMetadata   = 5
	userGroups     = 6
	userDropped    = 7
)

// Encode returns the user's message. The ID is the table's key.
func (u User) Encode() []byte {
	t := newReplicaTable(u.stamps())
	var m Message
	m.Number(userCreated, encodeMilliseconds(u.Created))
	t.fields(&m, userReplicas)
	m.Bytes(userFlag, u.Flag.encode())
	for _, i := range u.Identities {
		m.element(userIdentities, i.encode(t))
	}
	m.Bytes(userMetadata, encodeMetadataRegister(u.Metadata, t))
	u.Groups.fields(&m, userGroups, t)
	m.Bytes(userDropped, t.stamped(u.Dropped, func(*Message) {}))
	return append(m, u.Unknown.sorted()...)
}

func (i Identity) encode(t replicaTable) []byte {
	return t.stamped(i.Stamp, func(m *Message) {
		m.Bytes(3, []byte(i.Provider))
		m.Bytes(4, []byte(i.Subject))
		m.Bool(5, i.Unlinked)
		*m = append(*m, i.Unknown.sorted()...)
	})
}

// DecodeUser reads a user's message.
//
// Errors: [ErrDamaged].
func DecodeUser(id uuid.UUID, message []byte) (u User, err error) {
	u.ID = id
	u.Created = time.UnixMilli(0).UTC()
	t, err := decodeReplicas(message, userReplicas)
	if err != nil {
		return u, err
	}
	for f, err := range Fields(message) {
		if err != nil {
			return u, err
		}
		switch f.Num {
		case userCreated:
			u.Created, err = decodeMilliseconds(f.Number)
		case userReplicas: // in t already
		case userFlag:
			u.Flag, err = decodeFlag(f.Bytes)
		case userIdentities:
			var i Identity
			i, err = decodeIdentity(f.Bytes, t)
			u.Identities = append(u.Identities, i)
		case userMetadata:
			u.Metadata, err = decodeMetadata(f.Bytes, t)
		case userGroups:
			err = u.Groups.add(f.Bytes, t)
		case userDropped:
			u.Dropped, err = t.stampFields(f.Bytes, func(Field) error { return nil })
		default:
			u.Unknown.add(f)
		}
		if err != nil {
			return u, err
		}
	}
	u.Identities, u.Dropped = mergeIdentities(u.Identities, u.Dropped)
	u.Groups, u.Unknown = u.Groups.merge(nil), u.Unknown.sorted()
	return u, nil
}

func decodeIdentity(b []byte, t replicaTable) (i Identity, err error) {
	i.Stamp, err = t.stampFields(b, func(f Field) (err error) {
		switch f.Num {
		case 3:
			i.Provider, err = decodeString("provider", f.Bytes, MaxProvider)
		case 4:
			i.Subject, err = decodeString("subject", f.Bytes, MaxSubject)
		case 5:
			i.Unlinked = f.Number != 0
		default:
			i.Unknown.add(f)
		}
		return err
	})
	if err == nil && i.Stamp == (Stamp{}) {
		err = fmt.Errorf("%w: an identity without a stamp", ErrDamaged)
	}
	i.Unknown = i.Unknown.sorted()
	return i, err
}
