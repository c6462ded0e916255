package cache

import "github.com/google/uuid"

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
	// keyDrops counts the changes of keys, separately for each value of the last byte of their IDs.
	// otherDrops counts the changes of users and groups, because a key's ID does not tell these.
	// The numbers never fall.
	keyDrops   [256]uint64
	otherDrops uint64
	// holds and groupHolds count the commits in progress that change a key or user, or a group.
	holds      map[uuid.UUID]int
	groupHolds map[string]int
}

func newGate() gate {
	return gate{holds: make(map[uuid.UUID]int), groupHolds: make(map[string]int)}
}

// mark returns a number that is greater after each change of the key, its user or its group.
func (g *gate) mark(key uuid.UUID) uint64 { return g.keyDrops[lastByte(key)] + g.otherDrops }

func lastByte(id uuid.UUID) byte { return id[len(id)-1] }

// admits reports whether an answer that was read after mark was taken may be remembered.
func (g *gate) admits(who Holder, mark uint64) bool {
	return !g.held(who) && g.mark(who.Key) == mark
}

// held reports whether a commit is in progress that changes the key, its user or its group.
func (g *gate) held(who Holder) bool {
	return g.holds[who.Key] > 0 || g.holds[who.User] > 0 || g.groupHolds[who.Group] > 0
}

// count counts a change of everything in s, and adds holds to the number of its holds.
func (g *gate) count(s Stale, holds int) {
	for _, id := range s.Keys {
		g.keyDrops[lastByte(id)]++
		addHolds(g.holds, id, holds)
	}
	for _, id := range s.Users {
		g.otherDrops++
		addHolds(g.holds, id, holds)
	}
	for _, name := range s.Groups {
		g.otherDrops++
		addHolds(g.groupHolds, name, holds)
	}
}

func addHolds[K comparable](holds map[K]int, of K, n int) {
	if holds[of] += n; holds[of] == 0 {
		delete(holds, of)
	}
}

// countAll counts a change of every key.
func (g *gate) countAll() {
	for i := range g.keyDrops {
		g.keyDrops[i]++
	}
}
