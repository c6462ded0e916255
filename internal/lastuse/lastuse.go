// Package lastuse keeps the minute in which each token was last used, until a batch writes it.
package lastuse

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// An ID names a token: the ID of its key, and then the ID of its verifier.
type ID [24]byte

// Join returns the ID of a token.
func Join(key uuid.UUID, verifier [8]byte) (id ID) {
	copy(id[copy(id[:], key[:]):], verifier[:])
	return id
}

// Key returns the ID of the token's key.
func (id ID) Key() uuid.UUID { return uuid.UUID(id[:16]) }

// Verifier returns the ID of the token's verifier.
func (id ID) Verifier() [8]byte { return [8]byte(id[16:]) }

// A Use says in which minute since 1970 a token was used last.
type Use struct {
	ID     ID
	Minute uint32
}

// A Set has last uses. It takes no more than a limit of them. It is not safe for concurrent use.
type Set struct {
	limit, n int
	byKey    map[uuid.UUID][]Use // mostly one of each key
}

// NewSet returns an empty set.
func NewSet(limit int) *Set { return &Set{limit: limit, byKey: make(map[uuid.UUID][]Use)} }

// Add adds a use, unless the set has a later one of the token, or is full.
func (s *Set) Add(u Use) {
	uses := s.byKey[u.ID.Key()]
	if i := find(uses, u.ID); i >= 0 {
		uses[i].Minute = max(uses[i].Minute, u.Minute)
	} else if s.n < s.limit {
		s.byKey[u.ID.Key()] = append(uses, u)
		s.n++
	}
}

// Remove removes the use of a token, unless the set has a later one than u.
func (s *Set) Remove(u Use) {
	key := u.ID.Key()
	uses := s.byKey[key]
	i := find(uses, u.ID)
	if i < 0 || uses[i].Minute > u.Minute {
		return
	}
	s.n--
	if s.byKey[key] = slices.Delete(uses, i, i+1); len(s.byKey[key]) == 0 {
		delete(s.byKey, key)
	}
}

func find(uses []Use, id ID) int {
	return slices.IndexFunc(uses, func(u Use) bool { return u.ID == id })
}

// Of returns the uses of a key's tokens.
func (s *Set) Of(key uuid.UUID) []Use { return slices.Clone(s.byKey[key]) }

// AppendTo appends all uses of the set to others.
func (s *Set) AppendTo(others []Use) []Use {
	for _, uses := range s.byKey {
		others = append(others, uses...)
	}
	return others
}

// Sort puts uses in the order of their IDs, and returns the latest one of each token.
func Sort(uses []Use) []Use {
	sorted.Func(uses, func(a, b Use) int {
		return cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), cmp.Compare(b.Minute, a.Minute))
	})
	return slices.CompactFunc(uses, func(a, b Use) bool { return a.ID == b.ID })
}
