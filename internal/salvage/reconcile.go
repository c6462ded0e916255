package salvage

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// decode decodes the users and keys that were found. Deletion wins over them. Uncertain users, keys
// and groups are disabled.
func (s *salvage) decode() {
	s.remakeTombstones()
	for at := range s.changes {
		// A group is never deleted, so its record is lost, and the group may have been disabled.
		if _, ok := s.found[at]; !ok && at.table == record.TableGroups {
			s.found[at] = version{uncertain: true}
		}
	}
	for at, found := range s.found {
		id, _ := uuid.FromBytes([]byte(at.key))
		flag, err := &record.Flag{}, error(nil)
		switch at.table {
		case record.TableUsers:
			if s.isDeleted(record.TableDeadUsers, id) {
				continue
			}
			var u record.User
			if u, err = record.DecodeUser(id, found.message); err == nil {
				s.Users[id], flag = &u, &u.Flag
			}
		case record.TableKeys:
			if s.isDeleted(record.TableDeadKeys, id) {
				continue
			}
			var k record.Key
			if k, err = record.DecodeKey(id, found.message); err == nil {
				s.Keys[id], flag = &k, &k.Flag
			}
		case record.TableGroups:
			var g record.Group
			if g, err = record.DecodeGroup(at.key, found.message); err == nil {
				s.groups[at.key], flag = &g, &g.Flag
			}
		default:
			continue
		}
		switch {
		case err != nil:
			s.Counts.BadRecords++
		case found.uncertain || found.place < s.changes[at]:
			*flag = flag.Disable(s.writer)
			s.Counts.Uncertain++
		}
	}
}

// remakeTombstones makes tombstones for the users and keys of which only the change index says that
// they were deleted. A page can hold living keys in one commit and tombstones in a later commit. If
// such a page falls back to the earlier commit, a key is there and its tombstone is not.
func (s *salvage) remakeTombstones() {
	for at, place := range s.changes {
		if _, ok := s.found[at]; ok {
			continue
		}
		id, _ := uuid.FromBytes([]byte(at.key))
		switch at.table {
		case record.TableDeadUsers:
			u, err := record.DecodeUser(id, s.found[keyOf(record.TableUsers, id)].message)
			if err != nil { // also if there is no record of the user
				u = record.User{ID: id}
			}
			s.found[at] = version{message: u.Tombstone().Encode(), place: place}
		case record.TableDeadKeys:
			k, err := record.DecodeKey(id, s.found[keyOf(record.TableKeys, id)].message)
			if err == nil { // otherwise nobody knows the owner, and nothing of the key comes back
				s.found[at] = version{message: k.Tombstone().Encode(), place: place}
			}
		}
	}
}

// isDeleted reports whether a table of tombstones has an ID.
func (s *salvage) isDeleted(dead string, id uuid.UUID) bool {
	_, deleted := s.found[keyOf(dead, id)]
	return deleted
}

// reconcile enforces the rules that records obey together: every key has a user, a deleted user
// takes the keys along, and no two keys of an owner have the same name.
func (s *salvage) reconcile() {
	type ownedName struct {
		owner uuid.UUID
		name  string
	}
	taken := map[ownedName]bool{}
	for _, id := range sortedIDs(s.Keys) {
		k := s.Keys[id]
		if k.Owner != record.ServerOwner {
			if s.isDeleted(record.TableDeadUsers, k.Owner) {
				delete(s.Keys, id)
				s.found[keyOf(record.TableDeadKeys, id)] = version{message: k.Tombstone().Encode()}
				continue
			}
			if s.Users[k.Owner] == nil {
				s.Users[k.Owner] = s.orphanOwner(k.Owner, k.Created)
				s.Counts.Orphaned++
			}
		}
		if name := (ownedName{k.Owner, k.Name.Value}); taken[name] {
			suffix := "~" + id.String()
			k.Name.Value = names.Cut(k.Name.Value, names.MaxLength-len(suffix)) + suffix
			k.Name.Stamp = k.Next(s.Replica.ID)
		} else {
			taken[name] = true
		}
	}
	s.reconcileIdentities()
}

// reconcileIdentities leaves each identity to the user that it was linked to last. The other users
// with the identity were deleted, or the identity was unlinked from them. They have come back from
// an earlier commit, so they are disabled already. A user without an identity gets another one, and
// so does a user with keys whose identities are all anonymous.
func (s *salvage) reconcileIdentities() {
	hasKeys := map[uuid.UUID]bool{}
	for _, k := range s.Keys {
		hasKeys[k.Owner] = true
	}
	type identity struct{ provider, subject string }
	holders := map[identity]uuid.UUID{}
	last := map[identity]boltpage.Place{} // of the last change of the holder
	for _, id := range sortedIDs(s.Users) {
		place := s.found[keyOf(record.TableUsers, id)].place
		for _, i := range s.Users[id].Linked() {
			at := identity{i.Provider, i.Subject}
			if _, taken := holders[at]; !taken || last[at] < place {
				holders[at], last[at] = id, place
			}
		}
	}
	for id, u := range s.Users {
		for _, i := range u.Linked() {
			if holders[identity{i.Provider, i.Subject}] != id {
				i.Unlinked, i.Stamp = true, u.Next(s.Replica.ID)
				*u = u.SetIdentity(i)
			}
		}
		if len(u.Linked()) == 0 || hasKeys[id] && u.IsAnonymous() {
			s.link(u, s.lostIdentity(id))
		}
	}
}

// link links an identity to a user now.
func (s *salvage) link(u *record.User, i record.Identity) {
	i.Stamp = u.Next(s.Replica.ID)
	*u = u.SetIdentity(i)
}

// lostIdentity returns the identity for a user that would have none.
func (s *salvage) lostIdentity(id uuid.UUID) record.Identity {
	return record.Identity{Provider: s.rules.Lost, Subject: "lost:" + id.String()}
}

// orphanOwner makes the record of a user of which only keys are left. The user is as old as the
// first of the keys.
func (s *salvage) orphanOwner(id uuid.UUID, created time.Time) *record.User {
	i, ok := s.identities[id]
	if !ok || i.Provider == record.Anonymous {
		i = s.lostIdentity(id)
	}
	u := &record.User{ID: id, Created: created, Flag: record.Flag{}.Disable(s.writer)}
	s.link(u, i)
	return u
}

func sortedIDs[T any](m map[uuid.UUID]T) []uuid.UUID {
	return slices.SortedFunc(maps.Keys(m), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
}
