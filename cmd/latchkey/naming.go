package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// How the arguments name users and keys. The manual, in doc.go, has the rules.

// parseID reads an ID in the one form that the command prints, and reports whether s is one.
func parseID(s string) (id uuid.UUID, ok bool) {
	if len(s) != 36 {
		return id, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

// parseIdentity reads PROVIDER:SUBJECT, or the subject of a local-userpass identity. Whether there is such a provider is
// the store's to say. A subject that has a colon needs its provider before it: custom-tokn:42 is rather a mistake than a
// person's address.
func parseIdentity(s string) (latchkey.Identity, error) {
	if _, ok := parseID(s); ok {
		return latchkey.Identity{}, usagef("%s is an ID, and here belongs an identity; if it is one, write local-userpass:%[1]s", s)
	}
	if provider, subject, ok := strings.Cut(s, ":"); ok {
		return latchkey.Identity{Provider: latchkey.Provider(provider), Subject: subject}, nil
	}
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: s}, nil
}

// formatIdentity is the shortest text that parseIdentity reads as i.
func formatIdentity(i latchkey.Identity) string {
	short, err := parseIdentity(i.Subject)
	if err == nil && short == i {
		return i.Subject
	}
	return string(i.Provider) + ":" + i.Subject
}

// findUser returns the user that the argument USER names.
func findUser(tx *latchkey.Tx, arg string) (user latchkey.User, err error) {
	if id, ok := parseID(arg); ok {
		user, err = tx.User(id)
	} else {
		var identity latchkey.Identity
		if identity, err = parseIdentity(arg); err == nil {
			user, err = tx.UserByIdentity(identity)
		}
	}
	if err != nil {
		return latchkey.User{}, fmt.Errorf("%s: %w", arg, err)
	}
	return user, nil
}

// findKey returns the key of owner that the argument KEY names.
func findKey(tx *latchkey.Tx, owner uuid.UUID, arg string) (latchkey.Key, error) {
	if id, ok := parseID(arg); ok {
		key, err := tx.Key(owner, id)
		if err != nil {
			return latchkey.Key{}, fmt.Errorf("%s: %w", arg, err)
		}
		return key, nil
	}
	keys, err := tx.Keys(owner)
	if err != nil {
		return latchkey.Key{}, err
	}
	for _, key := range keys {
		if key.Name == arg {
			return key, nil
		}
	}
	return latchkey.Key{}, fmt.Errorf("%s: %w", arg, latchkey.ErrKeyNotFound)
}
