package cache

import (
	"slices"

	"github.com/google/uuid"
)

// Stale are the keys, and the users and groups with all their keys, whose entries in the cache may
// be wrong after a transaction.
type Stale struct {
	Keys, Users []uuid.UUID
	Groups      []string
}

// None reports whether there are none.
func (s *Stale) None() bool { return len(s.Keys) == 0 && !s.many() }

// many reports whether the number of keys is not known.
func (s *Stale) many() bool { return len(s.Users) > 0 || len(s.Groups) > 0 }

// Add adds more of them.
func (s *Stale) Add(more Stale) {
	s.Keys, s.Users = append(s.Keys, more.Keys...), append(s.Users, more.Users...)
	s.Groups = append(s.Groups, more.Groups...)
}

// gate tells which answers may be remembered: answers that were read after the last change of the
// key, its user and its group, and while no such change was committing. The mutex of the cache
// guards it.
type gate struct {
	// drops is the number of the last change. The other numbers are those of the last changes of
	// keys, users and groups, and of everything. Keys and users with the same last byte of their
	// IDs share a number, and so do all groups.
	drops      uint64
	keyDrops   [256]uint64
	userDrops  [256]uint64
	groupDrops uint64
	allDrops   uint64
	// holds and groupHolds count the commits in progress that change a key or user, or a group.
	holds      map[uuid.UUID]int
	groupHolds map[string]int
}

func newGate() gate {
	return gate{holds: make(map[uuid.UUID]int), groupHolds: make(map[string]int)}
}

func lastByte(id uuid.UUID) byte { return id[len(id)-1] }

// admits reports whether an answer that was read after mark was taken may be remembered.
func (g *gate) admits(who Holder, mark uint64) bool {
	return !g.held(who) && max(g.keyDrops[lastByte(who.Key)], g.userDrops[lastByte(who.User)], g.groupDrops, g.allDrops) <= mark
}

// held reports whether a commit is in progress that changes the key, its user or its group.
func (g *gate) held(who Holder) bool {
	return g.holds[who.Key] > 0 || g.holds[who.User] > 0 || g.groupHolds[who.Group] > 0
}

// count counts a change of everything in s, and adds holds to the number of its holds.
func (g *gate) count(s Stale, holds int) {
	g.drops++
	for _, id := range s.Keys {
		g.keyDrops[lastByte(id)] = g.drops
		addTo(g.holds, id, holds)
	}
	for _, id := range s.Users {
		g.userDrops[lastByte(id)] = g.drops
		addTo(g.holds, id, holds)
	}
	for _, name := range s.Groups {
		g.groupDrops = g.drops
		addTo(g.groupHolds, name, holds)
	}
}

func addTo[K comparable](counts map[K]int, of K, n int) {
	if counts[of] += n; counts[of] == 0 {
		delete(counts, of)
	}
}

// countAll counts a change of every key.
func (g *gate) countAll() {
	g.drops++
	g.allDrops = g.drops
}

// counts are the numbers of entries that users and groups have.
type counts struct {
	users  map[uuid.UUID]int
	groups map[string]int
}

func newCounts() *counts {
	return &counts{users: make(map[uuid.UUID]int), groups: make(map[string]int)}
}

// any reports whether a user or a group in s has entries.
func (c *counts) any(s Stale) bool {
	return slices.ContainsFunc(s.Users, func(id uuid.UUID) bool { return c.users[id] > 0 }) ||
		slices.ContainsFunc(s.Groups, func(name string) bool { return c.groups[name] > 0 })
}
