package disk_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// State is the content of a store: its users by their subjects. The empty subject stands for the
// server keys.
type State map[string]Holder

// Holder is a user, and the user's keys by their names.
type Holder struct {
	ID       uuid.UUID // [uuid.Nil] until a call has returned the ID
	Disabled bool
	Keys     map[string]Key
}

// Key is a key.
type Key struct {
	ID       uuid.UUID // [uuid.Nil] until a call has returned the ID
	Disabled bool
	Token    string // empty until a call has returned the token
}

func newState() State { return State{"": {ID: latchkey.ServerOwner, Keys: map[string]Key{}}} }

func (s State) clone() State {
	c := maps.Clone(s)
	for subject, h := range c {
		h.Keys = maps.Clone(h.Keys)
		c[subject] = h
	}
	return c
}

func readState(ctx context.Context, s *latchkey.Store) (State, error) {
	st := newState()
	for u, err := range s.Users(ctx, uuid.Nil) {
		if err != nil {
			return nil, err
		}
		st[u.Identities[0].Subject] = Holder{ID: u.ID, Disabled: u.Disabled, Keys: map[string]Key{}}
	}
	for subject, h := range st {
		keys, err := s.Keys(ctx, h.ID)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			h.Keys[k.Name] = Key{ID: k.ID, Disabled: k.Disabled}
		}
		if subject == "" {
			continue
		}
		if u, err := s.UserByIdentity(ctx, email(subject)); err != nil || u.ID != h.ID {
			return nil, fmt.Errorf("user by identity %q: got %s and error %w, want %s", subject, u.ID, err, h.ID)
		}
	}
	return st, nil
}

// users and keys return the numbers of users and keys.
func (s State) users() int { return len(s) - 1 }

func (s State) keys() (n int) {
	for _, h := range s {
		n += len(h.Keys)
	}
	return n
}

// apply returns the state after the change of a call. The IDs and tokens come from the answer, if
// there is one.
func (s State) apply(c Call, a Answer) State {
	s = s.clone()
	h := s[c.Subject]
	switch c.Do {
	case "create user", "create user with keys":
		h = Holder{ID: a.User, Keys: map[string]Key{}}
		h.addKeys(c.Names, a)
	case "create keys":
		h.addKeys(c.Names, a)
	case "rename key":
		h.Keys[c.Names[0]] = h.Keys[c.Name]
		delete(h.Keys, c.Name)
	case "disable key", "enable key":
		k := h.Keys[c.Name]
		k.Disabled = c.Do == "disable key"
		h.Keys[c.Name] = k
	case "rotate key":
		k := h.Keys[c.Name]
		k.Token = a.Tokens[0]
		h.Keys[c.Name] = k
	case "delete key":
		delete(h.Keys, c.Name)
	case "disable user", "enable user":
		h.Disabled = c.Do == "disable user"
	case "delete user":
		delete(s, c.Subject)
		return s
	default:
		return s
	}
	s[c.Subject] = h
	return s
}

func (h Holder) addKeys(names []string, a Answer) {
	for i, name := range names {
		k := Key{}
		if i < len(a.Keys) {
			k = Key{ID: a.Keys[i], Token: a.Tokens[i]}
		}
		h.Keys[name] = k
	}
}

// found reports whether read, which was read from a store, equals s. It returns s with the IDs that
// no call has returned.
func (s State) found(read State) (State, bool) {
	s = s.clone()
	if len(s) != len(read) {
		return s, false
	}
	for subject, h := range s {
		r, ok := read[subject]
		if !ok || h.Disabled != r.Disabled || len(h.Keys) != len(r.Keys) || !sameID(&h.ID, r.ID) {
			return s, false
		}
		for name, k := range h.Keys {
			rk, ok := r.Keys[name]
			if !ok || k.Disabled != rk.Disabled || !sameID(&k.ID, rk.ID) {
				return s, false
			}
			h.Keys[name] = k
		}
		s[subject] = h
	}
	return s, true
}

// sameID reports whether an ID equals the one that was read. If no call has returned the ID, sameID
// first takes over the one that was read.
func sameID(id *uuid.UUID, read uuid.UUID) bool {
	if *id == uuid.Nil {
		*id = read
	}
	return *id == read
}

// logins returns the right result of a login with each known token, and with the tokens of deleted
// keys.
func (s State) logins(gone []string) map[string]Login {
	logins := make(map[string]Login)
	for _, token := range gone {
		logins[token] = Login{Failure: failure(latchkey.ErrInvalidToken)}
	}
	for _, h := range s {
		for _, k := range h.Keys {
			switch {
			case k.Token == "":
			case k.Disabled:
				logins[k.Token] = Login{Failure: failure(latchkey.ErrKeyDisabled)}
			case h.Disabled:
				logins[k.Token] = Login{Failure: failure(latchkey.ErrUserDisabled)}
			default:
				logins[k.Token] = Login{Key: k.ID, Owner: h.ID}
			}
		}
	}
	return logins
}

// lost returns the tokens of s that next does not have.
func (s State) lost(next State) (gone []string) {
	after := next.logins(nil)
	for token := range s.logins(nil) {
		if _, ok := after[token]; !ok {
			gone = append(gone, token)
		}
	}
	return gone
}

// subjects are the subjects of all users that can exist, and the empty one. They are few, so that
// users are often deleted and made again.
var subjects = []string{"", "ada", "bob", "cleo", "dan", "eve", "fay"}

// draw returns a random change of the data of one subject.
func (s State) draw(random *rand.Rand, path, subject string) Call {
	h, ok := s[subject]
	c := Call{Path: path, Subject: subject, User: h.ID}
	if !ok {
		c.Do = "create user"
		if random.IntN(2) == 0 {
			c.Do, c.Names = "create user with keys", []string{"laptop", "phone"}
		}
		return c
	}
	names := slices.Sorted(maps.Keys(h.Keys))
	n := random.IntN(100)
	switch {
	case subject != "" && n < 3:
		c.Do = "delete user"
		return c
	case subject != "" && n < 10:
		c.Do = "disable user"
		if h.Disabled {
			c.Do = "enable user"
		}
		return c
	case len(names) == 0 || n < 35 && len(names) < 10:
		c.Do = "create keys"
		for range 1 + random.IntN(2)*random.IntN(9) {
			c.Names = append(c.Names, fmt.Sprintf("key-%08x", random.Uint32()))
		}
		return c
	}
	c.Name = names[random.IntN(len(names))]
	c.Key = h.Keys[c.Name].ID
	switch {
	case n < 55:
		c.Do = "rename key"
		c.Names = []string{fmt.Sprintf("key-%08x", random.Uint32())}
	case n < 80:
		c.Do = "disable key"
		if h.Keys[c.Name].Disabled {
			c.Do = "enable key"
		}
	default:
		c.Do = "delete key"
	}
	return c
}
