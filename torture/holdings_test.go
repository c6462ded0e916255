package torture_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// holdings are the data of one writer in a store: its users by the subject of their first identity,
// its server keys, and its application records. A prefix that belongs to the writer begins each
// subject, each server key's name and each record's key.
type holdings struct {
	Users  map[string]*holder `json:"users"`
	Server keysHeld           `json:"server"`
	Data   map[string]string  `json:"data"` // an application's records
	Gone   []string           `json:"gone"` // tokens of the keys that were deleted last
}

// dataName is the application table that all writers share.
const dataName = "app"

type holder struct {
	ID       uuid.UUID `json:"id"` // [uuid.Nil] until a call has returned the ID
	Linked   []string  `json:"linked"`
	Disabled bool      `json:"disabled"`
	Keys     keysHeld  `json:"keys"`
}

// keysHeld has keys by their names.
type keysHeld map[string]keyHeld

type keyHeld struct {
	ID       uuid.UUID `json:"id"` // [uuid.Nil] until a call has returned the ID
	Disabled bool      `json:"disabled"`
	Token    string    `json:"token"` // empty until a call has returned the token
}

func newHoldings() *holdings {
	return &holdings{Users: make(map[string]*holder), Server: make(keysHeld), Data: make(map[string]string)}
}

func (h *holdings) clone() *holdings {
	c := &holdings{Users: make(map[string]*holder), Server: maps.Clone(h.Server), Data: maps.Clone(h.Data), Gone: slices.Clone(h.Gone)}
	for subject, u := range h.Users {
		c.Users[subject] = &holder{u.ID, slices.Clone(u.Linked), u.Disabled, maps.Clone(u.Keys)}
	}
	return c
}

// keys returns the keys of the user with a subject, and the user's ID. For the empty subject it
// returns the server keys and ServerOwner.
func (h *holdings) keys(subject string) (keysHeld, uuid.UUID) {
	if subject == "" {
		return h.Server, latchkey.ServerOwner
	}
	return h.Users[subject].Keys, h.Users[subject].ID
}

// lose removes a key, and keeps its token in Gone.
func (h *holdings) lose(keys keysHeld, name string) {
	if token := keys[name].Token; token != "" {
		h.Gone = append(h.Gone, token)
		h.Gone = h.Gone[max(0, len(h.Gone)-20):]
	}
	delete(keys, name)
}

// readHoldings reads the data of the writer with a prefix from a store.
func readHoldings(ctx context.Context, s *latchkey.Store, prefix string) (*holdings, error) {
	h := newHoldings()
	var users []latchkey.User
	for u, err := range s.Users(ctx, uuid.Nil) {
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(u.Identities[0].Subject, prefix) {
			users = append(users, u)
		}
	}
	for _, u := range users {
		keys, err := s.Keys(ctx, u.ID)
		if err != nil {
			return nil, err
		}
		held := &holder{ID: u.ID, Disabled: u.Disabled, Keys: make(keysHeld)}
		for _, i := range u.Identities[1:] {
			held.Linked = append(held.Linked, i.Subject)
		}
		for _, k := range keys {
			held.Keys[k.Name] = keyHeld{ID: k.ID, Disabled: k.Disabled}
		}
		h.Users[u.Identities[0].Subject] = held
	}
	keys, err := s.Keys(ctx, latchkey.ServerOwner)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if strings.HasPrefix(k.Name, prefix) {
			h.Server[k.Name] = keyHeld{ID: k.ID, Disabled: k.Disabled}
		}
	}
	err = s.View(ctx, func(tx *latchkey.Tx) error {
		for e, err := range tx.AppTable(dataName).Scan([]byte(prefix), nil) {
			if err != nil || !strings.HasPrefix(string(e.Key), prefix) {
				return err
			}
			h.Data[string(e.Key)] = string(e.Value)
		}
		return nil
	})
	return h, err
}

// foundIn reports whether read, which was read from a store, equals h. If it does, foundIn takes
// over the IDs that no call has returned.
func (h *holdings) foundIn(read *holdings) bool {
	told := h.clone()
	for subject, u := range told.Users {
		r, ok := read.Users[subject]
		if !ok || u.Disabled != r.Disabled || !slices.Equal(u.Linked, r.Linked) || !sameID(&u.ID, r.ID) || !u.Keys.foundIn(r.Keys) {
			return false
		}
	}
	if len(told.Users) != len(read.Users) || !told.Server.foundIn(read.Server) || !maps.Equal(told.Data, read.Data) {
		return false
	}
	*h = *told
	return true
}

func (keys keysHeld) foundIn(read keysHeld) bool {
	for name, k := range keys {
		r, ok := read[name]
		if !ok || k.Disabled != r.Disabled || !sameID(&k.ID, r.ID) {
			return false
		}
		keys[name] = k
	}
	return len(keys) == len(read)
}

// sameID reports whether an ID equals the one that was read. If no call has returned the ID, sameID
// first takes over the one that was read.
func sameID(id *uuid.UUID, read uuid.UUID) bool {
	if *id == uuid.Nil {
		*id = read
	}
	return *id == read
}

func (h *holdings) String() string {
	text, err := json.MarshalIndent(h, "", "  ")
	return fmt.Sprint(string(text), err)
}

// checkLogins logs in with every known token, and describes each login whose answer is wrong.
func (h *holdings) checkLogins(ctx context.Context, s *latchkey.Store) (wrong []string) {
	check := func(token, want string) {
		if token == "" {
			return
		}
		if _, err := s.Login(ctx, token); outcome(err) != want {
			wrong = append(wrong, fmt.Sprintf("Login(%s): %s, want %s", token, outcome(err), want))
		}
	}
	checkKeys := func(keys keysHeld, enabled string) {
		for _, k := range keys {
			if k.Disabled {
				check(k.Token, "ErrKeyDisabled")
			} else {
				check(k.Token, enabled)
			}
		}
	}
	for _, u := range h.Users {
		enabled := "ok"
		if u.Disabled {
			enabled = "ErrUserDisabled"
		}
		checkKeys(u.Keys, enabled)
	}
	checkKeys(h.Server, "ok")
	for _, token := range h.Gone {
		check(token, "ErrInvalidToken")
	}
	return wrong
}
